#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>

namespace sidewinder {

double learning_rate_at(const LearningRateOptions& options, int64_t step, int64_t steps) {
  if (step < options.warmup_steps) {
    return options.peak * static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps);
  }
  // Share of the way from `begin` to the last step, which is `steps` − 1.
  const auto share_since = [&](int64_t begin) {
    const double length = static_cast<double>(std::max<int64_t>(1, steps - 1 - begin));
    return std::clamp(static_cast<double>(step - begin) / length, 0.0, 1.0);
  };
  const double f = options.final_share;
  switch (options.shape) {
    case LearningRateShape::constant: return options.peak;
    case LearningRateShape::cosine: {
      const double x = share_since(options.warmup_steps);
      return options.peak * (f + (1 - f) * (1 + std::cos(3.14159265358979323846 * x)) / 2);
    }
    case LearningRateShape::linear:
      return options.peak * (1 - (1 - f) * share_since(options.warmup_steps));
    case LearningRateShape::wsd: {
      const int64_t begin = steps - options.decay_steps;
      if (step < begin) return options.peak;
      const double x = static_cast<double>(step - begin + 1) /
                       static_cast<double>(std::max<int64_t>(1, options.decay_steps));
      return options.peak * (1 - (1 - f) * x);
    }
  }
  return options.peak;
}

}  // namespace sidewinder
