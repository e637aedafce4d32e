#pragma once
// Loops that reach the limits of one core: arithmetic on registers alone, and streams over memory.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

struct PeakLoops {
  // Floating-point operations, or exponentials, of one round.
  double f32_flops_per_round, bf16_flops_per_round, f64_flops_per_round, exps_per_round;
  void (*f32)(int64_t rounds);
  void (*bf16)(int64_t rounds);  // null where the level has no bf16 instruction
  void (*f64)(int64_t rounds);
  void (*exp)(int64_t rounds);
  void (*read)(const float* from, int64_t count);
  void (*copy)(float* to, const float* from, int64_t count);
};
SIDEWINDER_DECLARE_PER_ISA_WITH_TILES(PeakLoops, peak_loops)

}  // namespace sidewinder
