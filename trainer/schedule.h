#pragma once
// Schedules are pure functions of the step, so resuming needs no state of theirs.

#include <cstdint>

#include "trainer/options.h"

namespace sidewinder {

// Learning rate of the update that makes step `step` (from 0) of `steps`. Warm-up is linear and
// reaches the peak at step warmup_steps − 1. After it, with x from 0 to 1 over the remaining steps
// and f = final_share:
//   constant  peak
//   cosine    peak · (f + (1 − f) · (1 + cos πx) / 2)
//   linear    peak · (1 − (1 − f) · x)
//   wsd       peak, then over the last decay_steps linearly to f · peak
double learning_rate_at(const LearningRateOptions& options, int64_t step, int64_t steps);

}  // namespace sidewinder
