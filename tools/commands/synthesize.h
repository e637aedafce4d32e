#pragma once
// Synthetic tasks that show what a model's memory can do.

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct SynthesizeCommand {
  std::string task;    // copy or recall
  std::string output;  // JSONL file, one {"text": …, "answers": [[begin, end], …]} a line
  int64_t documents = 20000;
  int64_t length = 8;  // copy: letters to copy; recall: key-value pairs; each document has 1 to this
                       // many, since learning starts with the easy ones
  int64_t distance = 16;  // filler between what must be remembered and where it is asked for
  uint64_t seed = 0;
};

// One document. Answers are byte ranges of `text` that memory alone decides; every other byte is
// noise or structure.
struct SyntheticDocument {
  std::string text;
  std::vector<std::pair<int64_t, int64_t>> answers;
};

// copy:   letters of a to h, '|', `distance` dots, '|', the same letters       "bdca|....|bdca"
// recall: key-value pairs (keys a to h, values 0 to 7), '|', dots, '|', the same keys in another
//         order, each followed by its value                                     "c3a5f1|....|a5f1c3"
SyntheticDocument synthetic_document(const SynthesizeCommand& command, int64_t index);

ExitCode synthesize(const SynthesizeCommand& command);

}  // namespace sidewinder
