#pragma once
// The sum of squares of a range, in f64: the inner loop of cpu::norm_sq.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

struct NormSqLoops {
  double (*f32)(const float* x, int64_t count);
  double (*bf16)(const uint16_t* x, int64_t count);
};
SIDEWINDER_DECLARE_PER_ISA(NormSqLoops, norm_sq_loops)

}  // namespace sidewinder
