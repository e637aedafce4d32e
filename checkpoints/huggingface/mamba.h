#pragma once
// Mamba (version 1) as Hugging Face stores it: model_type mamba, hub suffix "-hf".

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>

#include "checkpoints/huggingface/tensor_table.h"

namespace sidewinder {

struct MambaConfig {
  int64_t vocabulary = 0;
  int64_t width = 0;
  int64_t layers = 0;
  int64_t state = 16;
  int64_t conv_width = 4;
  int64_t expand = 2;
  int64_t dt_rank = 0;
  double norm_eps = 1e-5;
  bool tied = true;

  bool operator==(const MambaConfig&) const = default;
};

// As for the Llama family.
MambaConfig read_mamba_config(const nlohmann::ordered_json& config, const std::string& path);
nlohmann::ordered_json write_mamba_config(const MambaConfig& config,
                                          const nlohmann::ordered_json& base);
TensorTable mamba_tensors(const MambaConfig& config);

}  // namespace sidewinder
