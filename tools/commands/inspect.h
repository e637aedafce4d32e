#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

#include "kernels/base/error.h"

namespace sidewinder {

struct InspectCommand {
  std::string path;      // run folder, checkpoint folder, corpus folder or one token shard
  bool tensors = false;  // of a checkpoint: also a line for every tensor
  std::string json_path;
};

// What lies there, as tables. All digests are verified. Damage is Error{environment} naming file
// and reason; in a run folder damaged checkpoints are listed and the newest sound one is shown.
ExitCode inspect(const InspectCommand& command);

// The two kinds. They print, and return the same as JSON.
nlohmann::ordered_json inspect_checkpoints(const std::string& path, bool tensors);
nlohmann::ordered_json inspect_corpus(const std::string& path);

}  // namespace sidewinder
