#include "tools/commands/kernel_benchmark.h"

#include <gtest/gtest.h>

namespace sidewinder {
namespace {

TEST(KernelBenchmark, EveryKernelMatchesItsReference) {
  for (const auto& group : {product_benchmarks(), sequence_benchmarks(), row_benchmarks()}) {
    for (const KernelBenchmark& benchmark : group) {
      EXPECT_LE(benchmark.check(), benchmark.largest_error)
          << benchmark.kernel << " " << benchmark.shape << " " << name_of(benchmark.compute);
    }
  }
}

}  // namespace
}  // namespace sidewinder
