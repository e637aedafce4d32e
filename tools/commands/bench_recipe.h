#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct BenchRecipeCommand {
  std::string recipe;
  std::vector<std::string> sets;
  int64_t steps = 5;   // measured, after one that warms up
  bool profile = false;  // time per operation
  std::string json_path;
};

// Real optimizer steps of a recipe on random tokens (documents of random lengths in packed rows):
// tokens per second, utilisation, memory. Touches no run folder.
ExitCode bench_recipe(const BenchRecipeCommand& command);

}  // namespace sidewinder
