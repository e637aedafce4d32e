#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct TokenizeCommand {
  std::vector<std::string> inputs;  // files and folders: UTF-8 text, .jsonl; also .gz, .xz, .zst
  std::string output;               // folder of the corpus
  std::string tokenizer;            // SentencePiece file or "bytes"; empty: train one
  std::string model_type = "bpe";   // or unigram; of a trained tokenizer
  int64_t vocabulary = 8192;        // of a trained tokenizer
  int64_t sample_mib = 8;           // of text to train the tokenizer on, at most
  std::string field = "text";       // of JSON lines
  std::string invalid = "error";    // text that is not UTF-8: error, replace or skip
  std::string bos = "none";         // before each document: none, model (the model's id) or an id
  std::string eos;  // after each document: none, model or an id; empty: model, for bytes none
  double hold_out = 0.05;  // share of the documents kept for validation, by hash of their name
  int64_t shard_tokens = int64_t{1} << 26;  // a shard is finished when it has this many
  int64_t join_bytes = 0;  // texts are joined to documents of at least this size; 0: not
  bool keep_duplicates = false;  // also texts equal to an earlier one
  int64_t max_document_mib = 256;
  std::string json_path;
};

// Makes a corpus of token shards. Can be interrupted and started again: finished shards are kept,
// and the result is the same to the last bit.
ExitCode tokenize(const TokenizeCommand& command);

}  // namespace sidewinder
