#pragma once
// Corpora made in memory for tests: documents of random ids.

#include <cstdint>
#include <string>
#include <vector>

#include "data/corpus.h"

namespace sidewinder::testing {

using Documents = std::vector<std::vector<int32_t>>;

// Documents with the given lengths whose ids are random below `vocabulary`.
Documents random_documents(const std::vector<int64_t>& lengths, int64_t vocabulary, uint64_t seed);
std::vector<int64_t> random_lengths(int64_t count, int64_t longest, uint64_t seed);

// Writes folder/train (and folder/validation) with `documents_per_shard` documents each.
void write_corpus(const std::string& folder, const Documents& train, int64_t vocabulary,
                  int64_t documents_per_shard = 1000, const Documents& validation = {});

}  // namespace sidewinder::testing
