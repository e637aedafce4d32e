#pragma once
// AdamW (Loshchilov & Hutter 2019) on f32 master weights:
//   g = gradient · gradient_scale
//   m = β₁·m + (1−β₁)·g        v = β₂·v + (1−β₂)·g²
//   w = w·(1 − lr·decay) − lr · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + eps)
// Corrections are formed in f64 on the host.

#include "kernels/ops/kernel.h"

namespace sidewinder {

struct AdamwCoefficients {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;
  double gradient_scale = 1;  // the clipping factor
  int64_t step = 1;           // t, from 1
};

struct AdamwArgs {
  Tensor& weight;  // f32 (f64), any shape, contiguous
  Tensor& m;
  Tensor& v;
  const Tensor& gradient;
  AdamwCoefficients coefficients;
};

namespace cpu {
void adamw(Stream, const AdamwArgs&);
}

extern Kernel<AdamwArgs> kAdamw;

namespace ops {
void adamw(Tensor& weight, Tensor& m, Tensor& v, const Tensor& gradient,
           const AdamwCoefficients& coefficients);
}

}  // namespace sidewinder
