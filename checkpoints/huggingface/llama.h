#pragma once
// The Llama family as Hugging Face stores it: model_type llama and mistral.

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>

#include "checkpoints/huggingface/tensor_table.h"
#include "kernels/math/rope.h"

namespace sidewinder {

struct LlamaConfig {
  bool is_mistral = false;  // the model type that may have a window
  int64_t vocabulary = 0;
  int64_t width = 0;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t key_value_heads = 0;
  int64_t head_width = 0;
  int64_t context = 0;  // max_position_embeddings
  int64_t window = 0;   // visible keys including the query itself; 0: all
  double norm_eps = 1e-6;
  RopeOptions rope;
  bool tied = false;

  bool operator==(const LlamaConfig&) const = default;
};

// Error{user} naming every key that is unknown or has a value that cannot be honoured. Where the
// factor of rotary scaling does not lead to max_position_embeddings it is taken as it is; see
// rope_mismatch().
LlamaConfig read_llama_config(const nlohmann::ordered_json& config, const std::string& path);

// The keys that say the same; `base` are the keys of a config.json to change as little as possible
// (empty: a config from nothing).
nlohmann::ordered_json write_llama_config(const LlamaConfig& config,
                                          const nlohmann::ordered_json& base);

TensorTable llama_tensors(const LlamaConfig& config);

}  // namespace sidewinder
