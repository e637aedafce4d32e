#include "checkpoints/retention.h"

#include <algorithm>
#include <functional>

namespace sidewinder {

std::vector<int64_t> steps_to_delete(std::vector<int64_t> steps, int64_t saved,
                                     const CheckpointOptions& options) {
  std::sort(steps.begin(), steps.end(), std::greater<>());
  std::vector<int64_t> result;
  int64_t kept = 0;
  for (const int64_t step : steps) {
    if (step > saved) continue;
    if (kept < std::max<int64_t>(1, options.keep_last)) {
      ++kept;
      continue;
    }
    if (options.keep_every > 0 && step % options.keep_every == 0) continue;
    result.push_back(step);
  }
  return result;
}

}  // namespace sidewinder
