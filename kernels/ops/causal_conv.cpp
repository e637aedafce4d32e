#include "kernels/ops/causal_conv.h"

namespace sidewinder {

namespace {

double forward_flops(const Tensor& x, const Tensor& weight) {
  return 2.0 * static_cast<double>(x.count()) * static_cast<double>(weight.size(1));
}

double flops_of(const CausalConvArgs& args) { return forward_flops(args.x, args.weight); }
double flops_of(const CausalConvBackwardArgs& args) {
  return 2 * forward_flops(args.x, args.weight);
}

}  // namespace

Kernel<CausalConvArgs> kCausalConv{
    .name = "causal_conv", .cpu = &cpu::causal_conv, .flops = &flops_of};
Kernel<CausalConvBackwardArgs> kCausalConvBackward{
    .name = "causal_conv_backward", .cpu = &cpu::causal_conv_backward, .flops = &flops_of};

namespace ops {
namespace {

void check(const Tensor& tensor, const char* name, const Shape& shape, Dtype dtype,
           const char* why) {
  SIDEWINDER_REQUIRE(tensor.defined(), "causal_conv: {} is missing; give a {} tensor of shape {}",
                     name, name_of(dtype), shape.text());
  SIDEWINDER_REQUIRE(tensor.shape() == shape && tensor.dtype() == dtype,
                     "causal_conv: {} is {} {} but must be {} {}, from {}", name,
                     name_of(tensor.dtype()), tensor.shape().text(), name_of(dtype), shape.text(),
                     why);
}

// The shape of the inputs before a row.
Shape state_shape(const Tensor& weight, const SequenceLayout& layout) {
  return {layout.rows, weight.size(1) - 1, weight.size(0)};
}

void check_inputs(const Tensor& x, const Tensor& weight, const Tensor& bias,
                  const SequenceLayout& layout, const Tensor& initial) {
  SIDEWINDER_REQUIRE(x.defined() && x.rank() == 2 && x.dtype() != Dtype::i32,
                     "causal_conv: x must be a matrix [tokens, channels] of f32, bf16 or f64");
  SIDEWINDER_REQUIRE(x.size(0) == layout.tokens(),
                     "causal_conv: x has {} tokens but the layout has {} rows of {}; make the "
                     "layout of the same batch",
                     x.size(0), layout.rows, layout.row_length);
  SIDEWINDER_REQUIRE(weight.defined() && weight.rank() == 2,
                     "causal_conv: weight must be a matrix [channels, width]");
  const int64_t width = weight.size(1);
  SIDEWINDER_REQUIRE(width >= 2 && width <= kMaxConvWidth,
                     "causal_conv: the width is {}; it must be from 2 to {}", width, kMaxConvWidth);
  const Dtype accumulator = accumulator_of(x.dtype());
  check(weight, "weight", {x.size(1), width}, accumulator, "the channels of x");
  if (bias) {
    check(bias, "bias", {x.size(1)}, accumulator, "the channels of x");
    SIDEWINDER_REQUIRE(bias.contiguous(), "causal_conv: bias must be contiguous; clone() it first");
  }
  if (initial) {
    check(initial, "initial", state_shape(weight, layout), accumulator, "the layout and weight");
  }
}

}  // namespace

CausalConvOut causal_conv(const Tensor& x, const Tensor& weight, const Tensor& bias,
                          const SequenceLayout& layout, const Tensor& initial,
                          bool want_final_state) {
  check_inputs(x, weight, bias, layout, initial);
  CausalConvOut result;
  result.y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (want_final_state) {
    result.final_state =
        Tensor::empty(state_shape(weight, layout), accumulator_of(x.dtype()), x.device());
  }
  kCausalConv(current_stream(x.device()),
              {result.y, result.final_state, x, weight, bias, initial, layout});
  return result;
}

CausalConvGradients causal_conv_backward(Tensor& dweight, Tensor& dbias, const Tensor& dy,
                                         const Tensor& x, const Tensor& weight, const Tensor& bias,
                                         const SequenceLayout& layout, const Tensor& initial,
                                         const Tensor& dfinal) {
  check_inputs(x, weight, bias, layout, initial);
  const Dtype accumulator = accumulator_of(x.dtype());
  check(dweight, "dweight", weight.shape(), accumulator, "weight");
  if (dbias) {
    check(dbias, "dbias", {x.size(1)}, accumulator, "the channels of x");
    SIDEWINDER_REQUIRE(dbias.contiguous(), "causal_conv: dbias must be contiguous");
  }
  check(dy, "dy", x.shape(), x.dtype(), "x");
  if (dfinal) check(dfinal, "dfinal", state_shape(weight, layout), accumulator, "the final state");
  CausalConvGradients result;
  result.dx = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (initial) result.dinitial = Tensor::empty(initial.shape(), accumulator, x.device());
  kCausalConvBackward(current_stream(x.device()), {result.dx, dweight, dbias, result.dinitial, dy,
                                                   dfinal, x, weight, bias, initial, layout});
  return result;
}

}  // namespace ops
}  // namespace sidewinder
