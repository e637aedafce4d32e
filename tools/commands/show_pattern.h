#pragma once
// `sidewinder show pattern NAME`: which keys each query sees, by the kernel's own rule.

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "kernels/base/error.h"

namespace sidewinder {

struct ShowPatternCommand {
  std::string name;
  int64_t length = 24;
  int64_t tile = 4;
  // Keys of [model.block.<letter>]; without a value, a small one that shows the pattern.
  std::map<std::string, std::optional<int64_t>> values = {
      {"window", {}},        {"dilation", {}}, {"stride", {}},        {"global_tokens", {}},
      {"pattern_block", {}}, {"summary", {}},  {"random_blocks", {}}, {"pattern_seed", {}}};
  std::string json_path;
};

ExitCode show_pattern(const ShowPatternCommand& command);

}  // namespace sidewinder
