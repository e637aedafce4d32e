#pragma once
// A corpus of bytes and a recipe of seconds, for tests of whole runs.

#include <cstdint>
#include <functional>
#include <string>

#include "tests/support/temporary_folder.h"

namespace sidewinder::testing {

// Documents of random letters, from the first of the alphabet on.
struct LetterCorpus {
  struct Lengths {
    uint64_t shortest, longest;
  };
  uint64_t seed = 5;
  int documents = 40;
  uint64_t letters = 9;
  std::string hold_out = "0.2";
  std::function<Lengths(int document)> lengths;
};
// documents.jsonl with these, and its corpus of bytes in tokens/.
void make_letter_corpus(const TemporaryFolder& folder, const LetterCorpus& corpus);

// documents.jsonl with 16 documents of 5 to 150 letters, and its corpus in tokens/: an epoch is
// about 9 steps of 2 rows of 64, and several documents are longer than a row.
void make_tiny_corpus(const TemporaryFolder& folder);
// tiny.toml: a hybrid of width 32 that trains on it for 14 steps, saving after each.
void write_tiny_recipe(const TemporaryFolder& folder);
inline constexpr int kTinySteps = 14;

// growing.toml: the same run with a context that grows from 16 over 32 to 64 at steps 4 and 9, in
// the middle of packing plans, with a growing window, a learning rate that warms up again, and
// documents that wait for rows that hold them. carried.toml: the same stages with documents that go
// on with their states, some of which lose their lanes at the edges. masked.toml: the same stages
// as fragments of full rows.
void write_growing_recipes(const TemporaryFolder& folder);

}  // namespace sidewinder::testing
