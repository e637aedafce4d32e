#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

#include "kernels/base/error.h"

namespace sidewinder {

struct InspectCommand {
  std::string path;      // run, checkpoint, Hugging Face or corpus folder, .safetensors file, token shard
  bool tensors = false;  // of a checkpoint or model: also the values of every tensor
  std::string json_path;
};

// What lies there, as tables. All digests are verified. Damage is Error{environment} naming file
// and reason; in a run folder damaged checkpoints are listed and the newest sound one is shown.
ExitCode inspect(const InspectCommand& command);

// The kinds. They print, and return the same as JSON.
nlohmann::ordered_json inspect_checkpoints(const std::string& path, bool tensors);
nlohmann::ordered_json inspect_corpus(const std::string& path);
nlohmann::ordered_json inspect_huggingface(const std::string& path, bool values);

}  // namespace sidewinder
