#pragma once
// One row of logits of the fused output layer and loss: statistics, then the gradient in place.

#include <cstdint>

namespace sidewinder {

struct SoftmaxStatistics {
  float top;  // the largest logit
  float sum;  // Σ exp(logit − top)
};

struct CrossEntropyKernels {
  // Applies the soft cap in place where it is not 0.
  SoftmaxStatistics (*statistics)(float* logits, int64_t count, float soft_cap);
  // g = factor · exp(logit − top) · (1 − (logit/soft_cap)²), the last part where there is a cap. g
  // may begin where the logits do.
  void (*gradient_f32)(float* g, const float* logits, int64_t count, float top, float factor,
                       float soft_cap);
  void (*gradient_bf16)(uint16_t* g, const float* logits, int64_t count, float top, float factor,
                        float soft_cap);
};

}  // namespace sidewinder
