#pragma once

#include <cstdint>

namespace sidewinder {

struct CheckpointOptions {
  int64_t every_steps = 500;  // 0: only at the end and when stopped
  int64_t keep_last = 3;
  int64_t keep_every = 0;  // steps; checkpoints at multiples are kept for good; 0: none
};

}  // namespace sidewinder
