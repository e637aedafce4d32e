#pragma once

#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct TrainCommand {
  std::string recipe;
  std::vector<std::string> sets;   // key=value
  bool fresh = false;              // a new folder beside a run that has checkpoints
  bool allow_different_cpu = false;
  bool allow_too_little_memory = false;  // start although the plan does not fit
  bool needs_extension = false;    // the recipe must have [extend]
  std::string json_path;
};

// Trains, or continues the run in the recipe's folder. Prints where things are when it ends.
ExitCode train(const TrainCommand& command);

}  // namespace sidewinder
