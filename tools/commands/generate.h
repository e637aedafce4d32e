#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/tensor/tensor.h"
#include "trainer/options.h"

namespace sidewinder {

struct GenerateCommand {
  std::string model;   // run, checkpoint or Hugging Face folder
  std::string prompt;
  int64_t tokens = 200;
  double temperature = 0.8;  // 0: always the most likely token
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;
  uint64_t seed = 0;
  bool bos = false;       // the tokenizer's BOS before the prompt
  std::string precision;  // f32, bf16 or f64; empty: the recipe's
  std::string tokenizer;  // of a Hugging Face folder that has none of the usual name
  std::vector<std::string> sets;  // key=value, over the recipe of the model
  std::string json_path;
};

// f32, bf16 or f64; nothing for an empty name. Error{user} for others.
std::optional<Precision> precision_named(const std::string& name);

// Prints the prompt and its continuation as it is made.
ExitCode generate(const GenerateCommand& command);

struct SamplingOptions {
  double temperature = 1.0;
  int64_t top_k = 0;
  double top_p = 1.0;
};
// One id from logits [V]; `uniform` in [0, 1) decides. Ties are broken towards the smaller id.
int32_t sample(const Tensor& logits, const SamplingOptions& options, double uniform);

}  // namespace sidewinder
