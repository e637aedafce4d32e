#pragma once
// The fused output layer and loss of kernels/ops/linear_cross_entropy.h as plain loops. The forward
// pass is a template, so that its derivative can be taken by complex step:
// ∂f/∂x = Im f(x + i·h) / h. Nothing in it compares or conjugates complex values.

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "kernels/ops/linear_cross_entropy.h"

namespace sidewinder::reference {

inline double real_part(double value) { return value; }
inline double real_part(const std::complex<double>& value) { return value.real(); }

struct CrossEntropyShape {
  int64_t tokens;
  int64_t width;
  int64_t vocabulary;

  int64_t valid(const CrossEntropyOptions& options) const {
    return options.valid_vocabulary > 0 ? options.valid_vocabulary : vocabulary;
  }
};

// Logits of one token, soft cap included; ids beyond the valid vocabulary are left out.
template <typename Scalar>
std::vector<Scalar> logits_of(const Scalar* x_row, const Scalar* w, const CrossEntropyShape& shape,
                              const CrossEntropyOptions& options) {
  std::vector<Scalar> logits(static_cast<size_t>(shape.valid(options)));
  for (size_t v = 0; v < logits.size(); ++v) {
    Scalar sum(0);
    for (int64_t i = 0; i < shape.width; ++i) {
      sum += x_row[i] * w[static_cast<int64_t>(v) * shape.width + i];
    }
    logits[v] = options.soft_cap > 0 ? options.soft_cap * std::tanh(sum / options.soft_cap) : sum;
  }
  return logits;
}

template <typename Scalar>
Scalar log_sum_exp(const std::vector<Scalar>& logits) {
  double top = real_part(logits[0]);
  for (const Scalar& logit : logits) top = std::max(top, real_part(logit));
  Scalar sum(0);
  for (const Scalar& logit : logits) sum += std::exp(logit - top);
  return std::log(sum) + top;
}

// The loss; token_loss may be null.
template <typename Scalar>
Scalar linear_cross_entropy(const Scalar* x, const Scalar* w, const int32_t* targets,
                            const CrossEntropyShape& shape, double scale,
                            const CrossEntropyOptions& options, Scalar* token_loss = nullptr) {
  Scalar loss(0);
  for (int64_t t = 0; t < shape.tokens; ++t) {
    if (token_loss != nullptr) token_loss[t] = Scalar(0);
    if (targets[t] < 0) continue;
    const std::vector<Scalar> logits = logits_of(x + t * shape.width, w, shape, options);
    const Scalar lse = log_sum_exp(logits);
    const Scalar own = lse - logits[static_cast<size_t>(targets[t])];
    if (token_loss != nullptr) token_loss[t] = own;
    loss += scale * (own + options.z_loss * lse * lse);
  }
  return loss;
}

// Forward and, where dx is defined, backward in f64; weight_forward.data is W itself.
void linear_cross_entropy(const LinearCrossEntropyArgs& args);

}  // namespace sidewinder::reference
