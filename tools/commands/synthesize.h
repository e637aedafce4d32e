#pragma once
// Training documents of the tasks of data/tasks, so that small models can be taught retrieval.

#include <cstdint>
#include <string>

#include "kernels/base/error.h"

namespace sidewinder {

struct SynthesizeCommand {
  std::string task;    // as in eval --tasks: "passkey", "copy:most=4:distance=16"
  std::string output;  // JSONL file, one {"text": …, "answers": [[begin, end], …]} a line
  int64_t documents = 20000;
  std::string lengths = "512";      // tokens of a document, at most; each document draws one
  std::string tokenizer = "bytes";  // that lengths are counted with
  std::string haystack;             // text file or folder; empty: noise
  uint64_t seed = 0;
};

// Documents are prompts with their answers, at depths drawn evenly from 0 to 1. "answers" are byte
// ranges of the text that memory alone decides. None is an example of `eval --tasks`.
ExitCode synthesize(const SynthesizeCommand& command);

}  // namespace sidewinder
