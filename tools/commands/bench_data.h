#pragma once
// `sidewinder bench data`: how fast text becomes batches, and how long a checkpoint holds training
// up.

#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct BenchDataOptions {
  bool check = false;                  // exit code 1 when a figure is below its bar
  std::string json_path = {};          // the table as JSON as well; empty: not wanted
  std::vector<std::string> only = {};  // figures whose name contains one of these; empty: all
  std::string text = {};               // file to tokenize; empty: made up, common words often
  std::vector<std::string> tokenizers =
      {};  // SentencePiece files; none: BPE, unigram, trained here
};

// Checks results, then times on one thread (but for the copy of a checkpoint), ours and the other's
// in turn, best of several. Everything that is read was just written, so it is in memory. Returns
// the exit code: 1 with `check` and a figure below its bar, otherwise 0.
ExitCode bench_data(const BenchDataOptions& options);

}  // namespace sidewinder
