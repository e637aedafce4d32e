#include "kernels/ops/selective_scan.h"

namespace sidewinder {

namespace {

// 7 per token, channel and state, as usually counted for the forward pass; twice that backward.
double forward_flops(const SelectiveScanInputs& in) {
  return 7.0 * static_cast<double>(in.u.count()) * static_cast<double>(in.a.size(1));
}

double flops_of(const SelectiveScanArgs& args) { return forward_flops(args.in); }
double flops_of(const SelectiveScanBackwardArgs& args) { return 2 * forward_flops(args.in); }

}  // namespace

Kernel<SelectiveScanArgs> kSelectiveScan{
    .name = "selective_scan", .cpu = &cpu::selective_scan, .flops = &flops_of};
Kernel<SelectiveScanBackwardArgs> kSelectiveScanBackward{.name = "selective_scan_backward",
                                                         .cpu = &cpu::selective_scan_backward,
                                                         .flops = &flops_of};

namespace ops {
namespace {

// `tensor` must have this shape and type; `why` says what they follow from.
void check(const Tensor& tensor, const char* name, const Shape& shape, Dtype dtype,
           const char* why) {
  SIDEWINDER_REQUIRE(tensor.defined(),
                     "selective_scan: {} is missing; give a {} tensor of shape {}", name,
                     name_of(dtype), shape.text());
  SIDEWINDER_REQUIRE(tensor.shape() == shape && tensor.dtype() == dtype,
                     "selective_scan: {} is {} {} but must be {} {}, from {}", name,
                     name_of(tensor.dtype()), tensor.shape().text(), name_of(dtype), shape.text(),
                     why);
}

void check_inputs(const SelectiveScanInputs& in, const SequenceLayout& layout) {
  SIDEWINDER_REQUIRE(in.u.defined() && in.u.rank() == 2 && in.u.dtype() != Dtype::i32,
                     "selective_scan: u must be a matrix [tokens, channels] of f32, bf16 or f64");
  SIDEWINDER_REQUIRE(in.a.defined() && in.a.rank() == 2,
                     "selective_scan: a must be a matrix [channels, states]");
  const Dtype dtype = in.u.dtype();
  const Dtype accumulator = accumulator_of(dtype);
  const int64_t tokens = layout.tokens();
  const int64_t channels = in.u.size(1);
  const int64_t states = in.a.size(1);
  SIDEWINDER_REQUIRE(in.u.size(0) == tokens,
                     "selective_scan: u has {} tokens but the layout has {} rows of {}; make the "
                     "layout of the same batch",
                     in.u.size(0), layout.rows, layout.row_length);
  SIDEWINDER_REQUIRE(channels >= 1 && states >= 1,
                     "selective_scan: {} channels of {} states; there must be at least one of each",
                     channels, states);
  const char* like_u = "u and the layout";
  const char* like_a = "the channels of u and the states of a";
  check(in.delta, "delta", {tokens, channels}, dtype, like_u);
  check(in.a, "a", {channels, states}, accumulator, like_a);
  check(in.b, "b", {tokens, states}, dtype, like_a);
  check(in.c, "c", {tokens, states}, dtype, like_a);
  check(in.d, "d", {channels}, accumulator, like_u);
  check(in.delta_bias, "delta_bias", {channels}, accumulator, like_u);
  SIDEWINDER_REQUIRE(in.d.contiguous() && in.delta_bias.contiguous(),
                     "selective_scan: d and delta_bias must be contiguous; clone() them first");
  if (in.z) check(in.z, "z", {tokens, channels}, dtype, like_u);
  if (in.initial) {
    check(in.initial, "initial", {layout.rows, channels, states}, accumulator, like_a);
  }
}

int64_t chunks_of(const SequenceLayout& layout) {
  return layout.rows * ((layout.row_length + kScanChunk - 1) / kScanChunk);
}

}  // namespace

SelectiveScanOut selective_scan(const SelectiveScanInputs& in, const SequenceLayout& layout,
                                bool want_chunk_states, bool want_final_state) {
  check_inputs(in, layout);
  const int64_t channels = in.u.size(1);
  const int64_t states = in.a.size(1);
  const Dtype accumulator = accumulator_of(in.u.dtype());
  const Device device = in.u.device();
  SelectiveScanOut result;
  result.out = Tensor::empty(in.u.shape(), in.u.dtype(), device);
  if (want_chunk_states) {
    result.chunk_states = Tensor::empty({chunks_of(layout), channels, states}, accumulator, device);
  }
  if (want_final_state) {
    result.final_state = Tensor::empty({layout.rows, channels, states}, accumulator, device);
  }
  kSelectiveScan(current_stream(device),
                 {result.out, result.chunk_states, result.final_state, in, layout});
  return result;
}

SelectiveScanGradients selective_scan_backward(Tensor& da, Tensor& dd, Tensor& ddelta_bias,
                                               const Tensor& dout, const SelectiveScanInputs& in,
                                               const Tensor& chunk_states,
                                               const SequenceLayout& layout, const Tensor& dfinal) {
  check_inputs(in, layout);
  const int64_t channels = in.u.size(1);
  const int64_t states = in.a.size(1);
  const Dtype accumulator = accumulator_of(in.u.dtype());
  const Device device = in.u.device();
  check(da, "da", {channels, states}, accumulator, "a");
  check(dd, "dd", {channels}, accumulator, "d");
  check(ddelta_bias, "ddelta_bias", {channels}, accumulator, "delta_bias");
  SIDEWINDER_REQUIRE(dd.contiguous() && ddelta_bias.contiguous(),
                     "selective_scan: dd and ddelta_bias must be contiguous");
  check(dout, "dout", in.u.shape(), in.u.dtype(), "u");
  check(chunk_states, "chunk_states", {chunks_of(layout), channels, states}, accumulator,
        "the layout; run the forward pass with want_chunk_states");
  if (dfinal) {
    check(dfinal, "dfinal", {layout.rows, channels, states}, accumulator, "the final state");
  }
  SelectiveScanGradients result;
  result.du = Tensor::empty(in.u.shape(), in.u.dtype(), device);
  result.ddelta = Tensor::empty(in.u.shape(), in.u.dtype(), device);
  result.db = Tensor::empty(in.b.shape(), in.u.dtype(), device);
  result.dc = Tensor::empty(in.c.shape(), in.u.dtype(), device);
  if (in.z) result.dz = Tensor::empty(in.u.shape(), in.u.dtype(), device);
  if (in.initial) result.dinitial = Tensor::empty(in.initial.shape(), accumulator, device);
  kSelectiveScanBackward(current_stream(device),
                         {result, da, dd, ddelta_bias, dout, dfinal, in, chunk_states, layout});
  return result;
}

}  // namespace ops
}  // namespace sidewinder
