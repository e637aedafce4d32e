#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct EvalLengthsCommand {
  std::string model;              // run, checkpoint or Hugging Face folder
  std::string precision;          // f32, bf16 or f64; empty: the recipe's
  std::string tokenizer;          // for a Hugging Face folder without one
  std::string data;               // folder of token shards, or empty
  std::string text;               // UTF-8 text file, one document, or empty
  std::string lengths;            // "512,1024"; empty: none
  int64_t stride = 0;             // 0: windows do not overlap
  bool single_window = false;     // instead of strided windows
  bool stream = false;            // also in one pass with carried state
  bool join = false;              // all documents as one
  int64_t chunk = 2048;           // of a stream
  int64_t max_tokens = 0;         // 0: all
  std::vector<std::string> sets;  // key=value, over the recipe of the model
  std::string json_path;
  std::string report_path;  // HTML page with pictures
};

// Loss and perplexity by context length and by position (trainer/perplexity.h). The JSON:
//
//   {"model": …, "step": …, "data": …, "documents": …, "tokens": …,
//    "by_length": [{"convention": "strided", "length": 512, "stride": 512, "windows": …,
//                   "targets": …, "loss": …, "perplexity": …,
//                   "by_position": [{"first": 0, "last": 0, "targets": …, "loss": …}, …]}, …],
//    "stream": {"chunk": …, "targets": …, "loss": …, "perplexity": …, "by_position": […],
//               "tokens_per_second": …, "peak_memory_bytes": …}}
ExitCode eval_lengths(const EvalLengthsCommand& command);

}  // namespace sidewinder
