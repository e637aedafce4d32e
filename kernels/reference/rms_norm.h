#pragma once
// RMS normalisation by plain loops, for any scalar: f64 (the oracle), complex (gradients by complex
// step) and f32 (the plainest computation in that type).

#include <cmath>
#include <complex>
#include <cstdint>

#include "kernels/ops/rms_norm.h"

namespace sidewinder::reference {

// Returns rstd.
template <typename Scalar>
Scalar rms_norm_vector(Scalar* y, const Scalar* x, const Scalar* weight, int64_t width, double eps) {
  Scalar sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += x[i] * x[i];
  const Scalar rstd =
      Scalar(1) / std::sqrt(sum / static_cast<Scalar>(width) + static_cast<Scalar>(eps));
  for (int64_t i = 0; i < width; ++i) y[i] = x[i] * rstd * weight[i];
  return rstd;
}

// Adds to dweight, and to dx when `accumulate`.
template <typename Scalar>
void rms_norm_vector_backward(Scalar* dx, Scalar* dweight, const Scalar* dy, const Scalar* x,
                              const Scalar* weight, Scalar rstd, int64_t width, bool accumulate) {
  Scalar mean = 0;
  for (int64_t i = 0; i < width; ++i) mean += dy[i] * weight[i] * x[i] * rstd;
  mean /= static_cast<Scalar>(width);
  for (int64_t i = 0; i < width; ++i) {
    const Scalar value = rstd * (dy[i] * weight[i] - x[i] * rstd * mean);
    dx[i] = accumulate ? dx[i] + value : value;
    dweight[i] += dy[i] * x[i] * rstd;
  }
}

// All tensors f64.
void rms_norm(const RmsNormArgs& args);
void rms_norm_backward(const RmsNormBackwardArgs& args);

}  // namespace sidewinder::reference
