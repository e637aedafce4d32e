#include "kernels/ops/matmul.h"

namespace sidewinder {

namespace {

double flops_of(const LinearArgs& args) {
  return 2.0 * static_cast<double>(args.x.size(0)) *
         static_cast<double>(args.weight.in * args.weight.out);
}

double flops_of(const WeightGradientArgs& args) {
  return 2.0 * static_cast<double>(args.x.size(0)) * static_cast<double>(args.dweight.count());
}

}  // namespace

Kernel<PackWeightArgs> kPackWeight{.name = "pack_weight", .cpu = &cpu::pack_weight};
Kernel<LinearArgs> kLinear{.name = "linear", .cpu = &cpu::linear, .flops = &flops_of};
Kernel<WeightGradientArgs> kWeightGradient{
    .name = "weight_gradient", .cpu = &cpu::weight_gradient, .flops = &flops_of};

namespace ops {
namespace {

bool is_floating(Dtype dtype) { return dtype != Dtype::i32; }

void check_compute(const char* name, const Tensor& tensor, const char* what, Dtype compute) {
  SIDEWINDER_REQUIRE(
      (tensor.dtype() == Dtype::f64) == (compute == Dtype::f64) && is_floating(tensor.dtype()),
      "{}: {} is {} but the product is formed in {}; f64 goes with f64 only, f32 and "
      "bf16 with each other",
      name, what, name_of(tensor.dtype()), name_of(compute));
}

void check_linear(const Tensor& x, const PackedWeight& weight) {
  SIDEWINDER_REQUIRE(weight.defined(), "linear: the weight has not been packed; call pack_weight");
  SIDEWINDER_REQUIRE(x.rank() == 2 && x.size(1) == weight.in,
                     "linear: x is {} but the weight takes {} columns; x must be [T, {}]",
                     x.shape().text(), weight.in, weight.in);
  check_compute("linear", x, "x", weight.compute);
}

}  // namespace

PackedWeight pack_weight(const Tensor& weight, WeightUse use, Dtype compute) {
  SIDEWINDER_REQUIRE(weight.rank() == 2, "pack_weight: the weight is {}; it must be a matrix",
                     weight.shape().text());
  SIDEWINDER_REQUIRE(is_floating(compute), "pack_weight: products cannot be formed in {}",
                     name_of(compute));
  check_compute("pack_weight", weight, "the weight", compute);
  PackedWeight packed;
  packed.out = weight.size(use == WeightUse::forward ? 0 : 1);
  packed.in = weight.size(use == WeightUse::forward ? 1 : 0);
  packed.compute = compute;
  kPackWeight(current_stream(weight.device()), {packed, weight, use});
  return packed;
}

Tensor linear(const Tensor& x, const PackedWeight& weight, Dtype dtype,
              const LinearExtras& extras) {
  check_linear(x, weight);
  const Tensor& bias = extras.bias;
  SIDEWINDER_REQUIRE(!bias.defined() || (bias.count() == weight.out &&
                                         bias.dtype() == accumulator_of(weight.compute)),
                     "linear: the bias is {} {} but must be {} of [{}]", name_of(bias.dtype()),
                     bias.shape().text(), name_of(accumulator_of(weight.compute)), weight.out);
  const Shape shape{x.size(0), weight.out};
  if (extras.residual.defined()) {
    SIDEWINDER_REQUIRE(extras.residual.shape() == shape,
                       "linear: the residual is {} but the product is {}; they must agree",
                       extras.residual.shape().text(), shape.text());
    check_compute("linear", extras.residual, "the residual", weight.compute);
  }
  Tensor y = Tensor::empty(shape, dtype, x.device());
  check_compute("linear", y, "y", weight.compute);
  kLinear(current_stream(x.device()), {y, x, weight, bias, extras.residual});
  return y;
}

void weight_gradient(Tensor& dweight, const Tensor& dy, const Tensor& x, Dtype compute,
                     bool accumulate) {
  SIDEWINDER_REQUIRE(
      dy.rank() == 2 && x.rank() == 2 && dy.size(0) == x.size(0),
      "weight_gradient: dy is {} and x is {}; both must be matrices with one row per "
      "token",
      dy.shape().text(), x.shape().text());
  const Shape shape{dy.size(1), x.size(1)};
  SIDEWINDER_REQUIRE(dweight.shape() == shape && dweight.dtype() == accumulator_of(compute),
                     "weight_gradient: dweight is {} {} but must be {} of {}",
                     name_of(dweight.dtype()), dweight.shape().text(),
                     name_of(accumulator_of(compute)), shape.text());
  check_compute("weight_gradient", dy, "dy", compute);
  check_compute("weight_gradient", x, "x", compute);
  kWeightGradient(current_stream(x.device()), {dweight, dy, x, compute, accumulate});
}

}  // namespace ops
}  // namespace sidewinder
