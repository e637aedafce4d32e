#pragma once
// Makes a corpus from text files: trains or takes a tokenizer, tokenizes documents on all threads
// of the pool, writes shards and at last the index.
//
// The result is a function of the texts and the options: the number of threads does not matter, and
// an interrupted build that is started again ends with the same bytes. It keeps the shards that
// were finished (partial.json names them), reads the texts again, and skips what those shards hold.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/text_reader.h"
#include "data/tokenizer.h"

namespace sidewinder {

struct CorpusBuildOptions {
  std::vector<std::string> inputs;
  std::string output;
  TextOptions text;
  std::string tokenizer;                     // "bytes", a SentencePiece file, or empty: train one
  TokenizerTraining training;                // if it is trained
  int64_t sample_bytes = int64_t{8} << 20;  // of text to train on, at most
  // "none", "model" (the id that the model names), or an id.
  std::string bos = "none";
  std::string eos;         // empty: "model", or "none" for bytes
  double hold_out = 0.05;  // share of documents, by hash of their name, kept for validation
  int64_t shard_tokens = int64_t{1} << 26;
  // Texts of one part are joined, in the order of reading, until they have this many bytes: long
  // documents from short texts. BOS and EOS stand around each text. 0: a text is a document.
  int64_t join_bytes = 0;
  // Of equal texts only the first goes into the corpus, or all. All: what is held out for validation
  // may be found in training too. For made texts whose repetition is meant.
  bool keep_duplicates = false;
};

struct CorpusBuildProgress {
  std::string stage;  // "reading for the tokenizer", "training the tokenizer", "tokenizing"
  int64_t documents = 0;
  uint64_t text_bytes = 0;
  uint64_t file_bytes = 0;  // read of
  uint64_t file_bytes_total = 0;
};

struct CorpusBuildResult {
  CorpusIndex index;
  TextCounts text;
  int64_t duplicates = 0;     // texts equal to an earlier one, left out
  int64_t kept_shards = 0;    // finished by an earlier, interrupted run
  bool was_complete = false;  // nothing had to be done (then the counts above are 0)
};

CorpusBuildResult build_corpus(const CorpusBuildOptions& options,
                               const std::function<void(const CorpusBuildProgress&)>& progress);

}  // namespace sidewinder
