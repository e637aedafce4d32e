#pragma once
// Attention with linear biases (Press et al. 2021, arXiv:2108.12409): slope_h · (query − key) is
// taken off the scaled score of head h. No position is turned or embedded.

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/base/check.h"

namespace sidewinder {

// One slope per head: 2^(−8(h+1)/H) for a power of two H. Otherwise those of the largest power of
// two c below H, then every second one of the series for 2c: the order is that of published models.
inline std::vector<double> alibi_slopes(int64_t heads) {
  SIDEWINDER_REQUIRE(heads > 0, "alibi: {} heads; at least one is needed", heads);
  int64_t series = 1;
  while (2 * series <= heads) series *= 2;
  const auto slope = [](int64_t of, int64_t head) {
    return std::exp2(-8.0 * static_cast<double>(head + 1) / static_cast<double>(of));
  };
  std::vector<double> slopes;
  for (int64_t h = 0; h < series; ++h) slopes.push_back(slope(series, h));
  for (int64_t h = series; h < heads; ++h) slopes.push_back(slope(2 * series, 2 * (h - series)));
  return slopes;
}

}  // namespace sidewinder
