#include "kernels/ops/rms_norm.h"

namespace sidewinder {

Kernel<RmsNormArgs> kRmsNorm{"rms_norm", &cpu::rms_norm};
Kernel<RmsNormBackwardArgs> kRmsNormBackward{"rms_norm_backward", &cpu::rms_norm_backward};

namespace ops {
namespace {

bool is_floating(Dtype dtype) { return dtype != Dtype::i32; }

// f64 does not mix with the other types.
bool may_mix(Dtype a, Dtype b) {
  return is_floating(a) && is_floating(b) && (a == Dtype::f64) == (b == Dtype::f64);
}

void check_input(const Tensor& x, const Tensor& weight) {
  SIDEWINDER_REQUIRE(x.defined() && weight.defined(), "rms_norm: x and weight must be given");
  SIDEWINDER_REQUIRE(
      x.rank() >= 2 && is_floating(x.dtype()),
      "rms_norm: x is {} {}; it must be [tokens, width] or [tokens, heads, width] of "
      "f32, bf16 or f64",
      name_of(x.dtype()), x.shape().text());
  const int64_t width = x.size(x.rank() - 1);
  SIDEWINDER_REQUIRE(width > 0 && weight.count() == width && weight.contiguous(),
                     "rms_norm: weight has {} elements but x is {} wide; they must match, see "
                     "model.width",
                     weight.count(), width);
  SIDEWINDER_REQUIRE(weight.dtype() == accumulator_of(x.dtype()),
                     "rms_norm: weight is {} but must be {} when x is {}", name_of(weight.dtype()),
                     name_of(accumulator_of(x.dtype())), name_of(x.dtype()));
}

int64_t count_groups(const Tensor& x) { return x.count() / x.size(x.rank() - 1); }

}  // namespace

RmsNormOut rms_norm(const Tensor& x, const Tensor& weight, double eps, Dtype dtype) {
  check_input(x, weight);
  SIDEWINDER_REQUIRE(may_mix(x.dtype(), dtype),
                     "rms_norm: cannot make {} from {}; f64 does not mix "
                     "with other types",
                     name_of(dtype), name_of(x.dtype()));
  SIDEWINDER_REQUIRE(eps >= 0, "rms_norm: eps is {}; it must not be negative", eps);
  RmsNormOut out{Tensor::empty(x.shape(), dtype, x.device()),
                 Tensor::empty({count_groups(x)}, accumulator_of(x.dtype()), x.device())};
  kRmsNorm(current_stream(x.device()), {out.y, out.rstd, x, weight, eps});
  return out;
}

namespace {

void run_backward(Tensor& dx, Tensor& dweight, Tensor& y, const Tensor& dy, const Tensor& x,
                  const Tensor& weight, const Tensor& rstd, Dtype dtype) {
  check_input(x, weight);
  SIDEWINDER_REQUIRE(dy.defined() && dy.shape() == x.shape() && may_mix(dy.dtype(), x.dtype()),
                     "rms_norm_backward: dy must have the shape of x, {}, and mix with {}",
                     x.shape().text(), name_of(x.dtype()));
  SIDEWINDER_REQUIRE(rstd.defined() && rstd.count() == count_groups(x) &&
                         rstd.dtype() == accumulator_of(x.dtype()) && rstd.contiguous(),
                     "rms_norm_backward: rstd must be the one of the forward pass, {} elements",
                     count_groups(x));
  SIDEWINDER_REQUIRE(dweight.defined() && dweight.count() == weight.count() &&
                         dweight.dtype() == weight.dtype() && dweight.contiguous(),
                     "rms_norm_backward: dweight must be like weight, {} {}",
                     name_of(weight.dtype()), weight.shape().text());
  const bool accumulate = dx.defined();
  if (!accumulate) dx = Tensor::empty(x.shape(), dtype, x.device());
  SIDEWINDER_REQUIRE(
      dx.shape() == x.shape() && may_mix(dx.dtype(), x.dtype()),
      "rms_norm_backward: dx is {} {} but x is {} {}; shapes must match and f64 does "
      "not mix with other types",
      name_of(dx.dtype()), dx.shape().text(), name_of(x.dtype()), x.shape().text());
  kRmsNormBackward(current_stream(x.device()), {dx, dweight, y, dy, x, weight, rstd, accumulate});
}

}  // namespace

void rms_norm_backward(Tensor& dx, Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Tensor& weight, const Tensor& rstd, Dtype dtype) {
  Tensor unwanted;
  run_backward(dx, dweight, unwanted, dy, x, weight, rstd, dtype);
}

void rms_norm_backward_in_place(Tensor& dx, Tensor& dweight, Tensor& dy, const Tensor& x,
                                const Tensor& weight, const Tensor& rstd, Dtype dtype) {
  run_backward(dx, dweight, dy, dy, x, weight, rstd, dtype);
}

}  // namespace ops
}  // namespace sidewinder
