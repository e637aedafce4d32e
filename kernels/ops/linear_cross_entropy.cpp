#include "kernels/ops/linear_cross_entropy.h"

namespace sidewinder {

namespace {

// Three products with gradients, one without.
double flops_of(const LinearCrossEntropyArgs& args) {
  const double forward =
      2.0 * static_cast<double>(args.x.count()) * static_cast<double>(args.weight_forward.out);
  return args.dx.defined() ? 3 * forward : forward;
}

}  // namespace

Kernel<LinearCrossEntropyArgs> kLinearCrossEntropy{
    .name = "linear_cross_entropy", .cpu = &cpu::linear_cross_entropy, .flops = &flops_of};

namespace ops {
namespace {

void check_operands(const Tensor& x, const PackedWeight& weight, const Tensor& targets) {
  SIDEWINDER_REQUIRE(weight.defined(),
                     "linear_cross_entropy: the weight has not been packed; call pack_weight");
  SIDEWINDER_REQUIRE(x.rank() == 2 && x.size(1) == weight.in,
                     "linear_cross_entropy: x is {} but the weight takes {} columns; x must be "
                     "[T, {}]",
                     x.shape().text(), weight.in, weight.in);
  SIDEWINDER_REQUIRE(
      x.dtype() != Dtype::i32 && (x.dtype() == Dtype::f64) == (weight.compute == Dtype::f64),
      "linear_cross_entropy: x is {} but products are formed in {}; f64 goes with "
      "f64 only, f32 and bf16 with each other",
      name_of(x.dtype()), name_of(weight.compute));
  SIDEWINDER_REQUIRE(
      targets.dtype() == Dtype::i32 && targets.count() == x.size(0) && targets.contiguous(),
      "linear_cross_entropy: targets are {} {} but must be i32, one per row of x {}",
      name_of(targets.dtype()), targets.shape().text(), x.shape().text());
}

void check_options(const CrossEntropyOptions& options, int64_t vocabulary) {
  SIDEWINDER_REQUIRE(options.z_loss >= 0 && options.soft_cap >= 0,
                     "linear_cross_entropy: z_loss is {} and soft_cap {}; neither may be negative",
                     options.z_loss, options.soft_cap);
  SIDEWINDER_REQUIRE(0 <= options.valid_vocabulary && options.valid_vocabulary <= vocabulary,
                     "linear_cross_entropy: valid_vocabulary is {} but the weight has {} rows; it "
                     "must be at most that",
                     options.valid_vocabulary, vocabulary);
}

void check_targets(const Tensor& targets, int64_t valid) {
  if (targets.device().kind != DeviceKind::cpu) return;
  const int32_t* target = targets.data<int32_t>();
  for (int64_t t = 0; t < targets.count(); ++t) {
    SIDEWINDER_REQUIRE(target[t] < valid,
                       "linear_cross_entropy: the target of token {} is {} but the vocabulary ends "
                       "at {}; was the text tokenized with another vocabulary?",
                       t, target[t], valid);
  }
}

void check_gradient(const PackedWeight& weight_forward, const PackedWeight& weight_backward,
                    const Tensor& dweight) {
  SIDEWINDER_REQUIRE(
      weight_backward.defined() && weight_backward.in == weight_forward.out &&
          weight_backward.out == weight_forward.in &&
          weight_backward.compute == weight_forward.compute,
      "linear_cross_entropy: the weight for backward is {} x {} ({}) but must be the "
      "same matrix as the one for forward, {} x {} ({})",
      weight_backward.in, weight_backward.out, name_of(weight_backward.compute), weight_forward.out,
      weight_forward.in, name_of(weight_forward.compute));
  const Shape shape{weight_forward.out, weight_forward.in};
  SIDEWINDER_REQUIRE(
      dweight.shape() == shape && dweight.dtype() == accumulator_of(weight_forward.compute),
      "linear_cross_entropy: dweight is {} {} but must be {} {}", name_of(dweight.dtype()),
      dweight.shape().text(), name_of(accumulator_of(weight_forward.compute)), shape.text());
}

}  // namespace

LinearCrossEntropyOut linear_cross_entropy(const Tensor& x, const PackedWeight& weight_forward,
                                           const PackedWeight& weight_backward,
                                           const Tensor& targets, double scale,
                                           const CrossEntropyOptions& options, Tensor dweight) {
  check_operands(x, weight_forward, targets);
  check_options(options, weight_forward.out);
  check_targets(targets,
                options.valid_vocabulary > 0 ? options.valid_vocabulary : weight_forward.out);
  if (dweight.defined()) check_gradient(weight_forward, weight_backward, dweight);
  LinearCrossEntropyOut out;
  out.loss = Tensor::empty({1}, Dtype::f64, x.device());
  out.token_loss = Tensor::empty({x.size(0)}, accumulator_of(x.dtype()), x.device());
  if (dweight.defined()) out.dx = Tensor::empty(x.shape(), x.dtype(), x.device());
  kLinearCrossEntropy(current_stream(x.device()),
                      {out.loss, out.token_loss, out.dx, dweight, x, weight_forward,
                       weight_backward, targets, scale, options});
  return out;
}

}  // namespace ops
}  // namespace sidewinder
