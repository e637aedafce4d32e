#pragma once
// One AdamW step by a plain loop, for f64 (the oracle) and f32 (the plainest computation).

#include <cmath>
#include <cstdint>

#include "kernels/ops/adamw.h"

namespace sidewinder::reference {

template <typename Scalar>
void adamw_element(Scalar& weight, Scalar& m, Scalar& v, Scalar gradient,
                   const AdamwCoefficients& c) {
  const auto number = [](double value) { return static_cast<Scalar>(value); };
  const double t = static_cast<double>(c.step);
  const Scalar g = gradient * number(c.gradient_scale);
  m = number(c.beta1) * m + number(1 - c.beta1) * g;
  v = number(c.beta2) * v + number(1 - c.beta2) * g * g;
  const Scalar m_hat = m / number(1 - std::pow(c.beta1, t));
  const Scalar v_hat = v / number(1 - std::pow(c.beta2, t));
  weight = weight * number(1 - c.learning_rate * c.weight_decay) -
           number(c.learning_rate) * m_hat / (std::sqrt(v_hat) + number(c.eps));
}

// All tensors f64.
void adamw(const AdamwArgs& args);

}  // namespace sidewinder::reference
