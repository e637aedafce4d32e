#pragma once
// Small models as Hugging Face would store them, with random weights.

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "checkpoints/huggingface/tensor_table.h"

namespace sidewinder::testing {

// config.json texts of 2 layers; keys are added or replaced by `changes` (null removes).
nlohmann::ordered_json tiny_llama_config(const nlohmann::ordered_json& changes = {});
nlohmann::ordered_json tiny_mamba_config(const nlohmann::ordered_json& changes = {});

// Writes config.json, and model.safetensors with the tensors of the table: normal values of
// deviation 0.05 in `type`, or in the type that `types` says by name.
void write_huggingface_folder(const std::string& folder, const nlohmann::ordered_json& config,
                              const TensorTable& table, const std::string& type = "F32",
                              const std::map<std::string, std::string>& types = {});
// The same by the config's model_type.
void write_huggingface_folder(const std::string& folder, const nlohmann::ordered_json& config,
                              const std::string& type = "F32");

// Name → shape, of all tensors of the files of a table.
using PartShapes = std::map<std::string, std::vector<int64_t>>;
PartShapes part_shapes(const TensorTable& table);

// What a call says that refuses config.json, without the line that says so.
std::string refusal_of(const std::function<void()>& call);

// Name → type, shape and bytes, of all safetensors files of a folder.
std::map<std::string, std::string> tensor_bytes(const std::string& folder);

}  // namespace sidewinder::testing
