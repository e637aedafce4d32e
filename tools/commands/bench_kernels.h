#pragma once
// `sidewinder bench kernels`: how fast each kernel runs, as a share of what this machine can do.

#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct BenchKernelsOptions {
  bool check = false;             // exit code 1 when a kernel is below its bar
  std::string json_path;          // the table as JSON as well; empty: not wanted
  std::vector<std::string> only;  // kernels whose name contains one of these; empty: all
};

// Checks each kernel against the f64 reference on a small shape (a wrong result is Error{bug}),
// then times it and prints one line. Returns the exit code: 1 with `check` and a kernel below its
// bar, otherwise 0. Shares are relative to the limits measured in the same run, best of several,
// because absolute times depend on the machine and its neighbours; shares of the memory's bandwidth
// to what it gave in turns with the kernel, because that changes within a run. Bars hold on CPUs
// with AVX-512; on others they print as "n/a".
ExitCode bench_kernels(const BenchKernelsOptions& options);

}  // namespace sidewinder
