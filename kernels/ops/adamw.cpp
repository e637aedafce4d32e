#include "kernels/ops/adamw.h"

namespace sidewinder {

Kernel<AdamwArgs> kAdamw{"adamw", &cpu::adamw};

namespace ops {
namespace {

void check_like(const char* name, const Tensor& tensor, const Tensor& weight) {
  SIDEWINDER_REQUIRE(tensor.defined() && tensor.shape() == weight.shape() &&
                         tensor.dtype() == weight.dtype() && tensor.contiguous(),
                     "adamw: {} is {} {} but must be like the weight, {} {}, and contiguous", name,
                     tensor.defined() ? name_of(tensor.dtype()) : "undefined",
                     tensor.shape().text(), name_of(weight.dtype()), weight.shape().text());
}

}  // namespace

void adamw(Tensor& weight, Tensor& m, Tensor& v, const Tensor& gradient,
           const AdamwCoefficients& coefficients) {
  SIDEWINDER_REQUIRE(weight.defined() && weight.contiguous() &&
                         (weight.dtype() == Dtype::f32 || weight.dtype() == Dtype::f64),
                     "adamw: the weight must be a contiguous tensor of f32 or f64");
  check_like("m", m, weight);
  check_like("v", v, weight);
  check_like("the gradient", gradient, weight);
  const AdamwCoefficients& c = coefficients;
  SIDEWINDER_REQUIRE(c.step >= 1, "adamw: step is {}; steps count from 1", c.step);
  SIDEWINDER_REQUIRE(c.beta1 >= 0 && c.beta1 < 1 && c.beta2 >= 0 && c.beta2 < 1 && c.eps > 0,
                     "adamw: betas {} and {} must lie in [0, 1) and eps {} above 0", c.beta1,
                     c.beta2, c.eps);
  kAdamw(current_stream(weight.device()), {weight, m, v, gradient, coefficients});
}

}  // namespace ops
}  // namespace sidewinder
