#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct EvalCommand {
  std::string model;      // run, checkpoint or Hugging Face folder
  std::string data;       // folder of token shards, or empty
  std::string text;       // UTF-8 text file, one document, or empty
  int64_t context = 0;    // tokens per row; 0: the recipe's
  int64_t max_tokens = 0;  // 0: all
  bool baselines = false;  // also unigram and bigram models counted on the run's training tokens
  std::string precision;   // f32, bf16 or f64; empty: the recipe's
  std::string tokenizer;   // of a Hugging Face folder that has none of the usual name
  std::vector<std::string> sets;  // key=value, over the recipe of the model
  std::string json_path;
  std::string report_path;  // HTML page with pictures
};

// Token-weighted loss, perplexity and bits per byte, in all and by position in the document
// (buckets 0, 1, 2–3, 4–7, …). Documents longer than the context are cut; pieces start anew, but for
// runs with data.long_documents = "continue_state": there they go on with their states, as in the
// run's validation, unless a context is given.
ExitCode eval(const EvalCommand& command);

}  // namespace sidewinder
