#pragma once
// A corpus: a folder of token shards and index.json, which is written last and names every shard
// with its digests. A folder without index.json is not a corpus (yet).
//
//   index.json  tokenizer.model (unless bytes)  train/shard-00000.h5 …  validation/shard-00000.h5 …
//
// A corpus with a held-out part is named by either subfolder; without one, shards lie in train/
// too.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/options.h"
#include "data/shard.h"

namespace sidewinder {

inline constexpr const char* kIndexFile = "index.json";
inline constexpr const char* kTokenizerFile = "tokenizer.model";

struct CorpusIndex {
  std::string tokenizer_digest;  // "bytes", or XXH3-128 of tokenizer.model
  int64_t vocabulary = 0;
  int64_t bos = -1;  // id put before each document; -1: none
  int64_t eos = -1;  // id put after each document; -1: none
  std::vector<ShardRecord> train;
  std::vector<ShardRecord> validation;
  std::string settings;  // JSON object: how it was made
};

std::string to_json(const CorpusIndex& index);
// Error{environment} naming `path` if the text is not an index, was changed, or is of another
// version.
CorpusIndex index_from_json(const std::string& text, const std::string& path);

// One part (train or validation) of a corpus. For one thread at a time.
class Corpus {
 public:
  // `folder`: CORPUS (its training part), CORPUS/train or CORPUS/validation. Opens and checks all
  // shards. Error{environment} if something is missing or damaged.
  explicit Corpus(const std::string& folder);

  int64_t documents() const { return first_document_.back(); }
  int64_t tokens() const { return tokens_; }
  int64_t vocabulary() const { return index_.vocabulary; }
  const std::string& folder() const { return folder_; }
  // CORPUS/train or CORPUS/validation, whichever it is.
  std::string part_folder() const;
  const CorpusIndex& index() const { return index_; }
  // Path of the tokenizer model; empty for bytes.
  std::string tokenizer_file() const;
  // Over the records of all its shards.
  const std::string& digest() const { return digest_; }

  int64_t document_length(int64_t document) const;
  int64_t document_bytes(int64_t document) const;
  void read(int64_t document, int64_t first, std::span<int32_t> out);

 private:
  size_t shard_of(int64_t document) const;

  std::string folder_;  // that holds index.json
  std::string part_;
  CorpusIndex index_;
  std::vector<ShardReader> shards_;
  std::vector<int64_t> first_document_;  // [shards + 1]
  int64_t tokens_ = 0;
  std::string digest_;
};

// The tokenizer model of the training corpora; empty for bytes.
std::string tokenizer_file(const DataOptions& options);

}  // namespace sidewinder
