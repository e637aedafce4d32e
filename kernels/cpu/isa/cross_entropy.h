#pragma once
// Rows of the fused output layer and loss.

#include <cstdint>

#include "kernels/cpu/isa/gemm.h"

namespace sidewinder {

// Leaves room above weights, whose reference may be far below the largest logit.
inline constexpr float kWeightScale = 0x1p-43F;

struct SoftmaxStatistics {
  float top;  // the largest logit
  float sum;  // Σ exp(logit − reference)
};

// logit = soft_cap · tanh(raw / soft_cap), or raw where soft_cap is 0.
struct CrossEntropyKernels {
  float (*largest)(const float* raw, int64_t count, float soft_cap);
  // weights = kWeightScale · exp(logit − reference) · (1 − (logit/soft_cap)²), the last part where
  // there is a cap; no weights where the pointer is null.
  SoftmaxStatistics (*weigh_f32)(float* weights, const float* raw, int64_t count, float reference,
                                 float soft_cap);
  SoftmaxStatistics (*weigh_bf16)(uint16_t* weights, const float* raw, int64_t count,
                                  float reference, float soft_cap);
  // y = factor · x
  void (*scale)(void* y, GemmElement y_element, const void* x, GemmElement x_element, int64_t count,
                float factor);
};

}  // namespace sidewinder
