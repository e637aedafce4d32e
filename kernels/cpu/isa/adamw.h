#pragma once
// One AdamW step over a range of elements: the inner loop of cpu::adamw.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

struct AdamwRange {
  float* weight;
  float* m;
  float* v;
  const float* gradient;
  int64_t count;
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float gradient_scale;
  float keep;          // 1 − learning_rate · decay
  float step_size;     // learning_rate / (1 − β₁ᵗ)
  float v_correction;  // 1 / √(1 − β₂ᵗ)
  float eps;
};

struct AdamwLoops {
  void (*step)(const AdamwRange&);
};
SIDEWINDER_DECLARE_PER_ISA(AdamwLoops, adamw_loops)

}  // namespace sidewinder
