#pragma once
// `sidewinder show schedule RECIPE`: how the context of a run grows, as a table.

#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct ShowScheduleCommand {
  std::string recipe;
  std::vector<std::string> sets;
  int64_t rows = 24;  // at most, of the table; a curve changes more often. 0: all
  std::string json_path;
};

ExitCode show_schedule(const ShowScheduleCommand& command);

}  // namespace sidewinder
