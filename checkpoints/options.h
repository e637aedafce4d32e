#pragma once

#include <cstdint>

namespace sidewinder {

struct CheckpointOptions {
  int64_t every_steps = 500;  // 0: only at the end and when stopped
  int64_t keep_last = 3;
  bool asynchronous = true;   // training goes on while a copy is written
  int64_t keep_every = 0;  // steps; checkpoints at multiples are kept for good; 0: none
};

// Whether any checkpoint on the way from `first` to `last` steps is saved while training goes on.
inline bool saves_in_background(const CheckpointOptions& options, int64_t first, int64_t last) {
  return options.asynchronous && options.every_steps > 0 &&
         first / options.every_steps < (last - 1) / options.every_steps;
}

}  // namespace sidewinder
