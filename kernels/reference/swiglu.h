#pragma once
// Gated activation by plain loops, for any scalar: f64, complex (gradients by complex step), f32.

#include <cmath>
#include <complex>

#include "kernels/ops/swiglu.h"

namespace sidewinder::reference {

template <typename Scalar>
Scalar swiglu_element(Scalar gate, Scalar up) {
  return gate / (Scalar(1) + std::exp(-gate)) * up;
}

template <typename Scalar>
void swiglu_element_backward(Scalar& dgate, Scalar& dup, Scalar dy, Scalar gate, Scalar up) {
  const Scalar sigmoid = Scalar(1) / (Scalar(1) + std::exp(-gate));
  dgate = dy * up * sigmoid * (Scalar(1) + gate * (Scalar(1) - sigmoid));
  dup = dy * gate * sigmoid;
}

// All tensors f64.
void swiglu(const SwigluArgs& args);
void swiglu_backward(const SwigluBackwardArgs& args);

}  // namespace sidewinder::reference
