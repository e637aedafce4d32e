#include "kernels/ops/swiglu.h"

namespace sidewinder {

Kernel<SwigluArgs> kSwiglu{"swiglu", &cpu::swiglu};
Kernel<SwigluBackwardArgs> kSwigluBackward{"swiglu_backward", &cpu::swiglu_backward};

namespace ops {
namespace {

void check_gate_up(const Tensor& gate_up) {
  SIDEWINDER_REQUIRE(gate_up.defined() && gate_up.rank() == 2 && gate_up.size(1) % 2 == 0 &&
                         gate_up.dtype() != Dtype::i32,
                     "swiglu: gate_up is {} {}; it must be [tokens, 2 · width] of f32, bf16 or f64",
                     gate_up.defined() ? name_of(gate_up.dtype()) : "undefined",
                     gate_up.shape().text());
}

void check_gradient(const Tensor& dy, const Tensor& gate_up) {
  check_gate_up(gate_up);
  const Shape expected = {gate_up.size(0), gate_up.size(1) / 2};
  SIDEWINDER_REQUIRE(dy.defined() && dy.shape() == expected && dy.dtype() == gate_up.dtype(),
                     "swiglu_backward: dy is {} {} but must be {} {} to go with gate_up",
                     dy.defined() ? name_of(dy.dtype()) : "undefined", dy.shape().text(),
                     name_of(gate_up.dtype()), expected.text());
}

}  // namespace

Tensor swiglu(const Tensor& gate_up) {
  check_gate_up(gate_up);
  Tensor y =
      Tensor::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.dtype(), gate_up.device());
  kSwiglu(current_stream(gate_up.device()), {y, gate_up});
  return y;
}

Tensor swiglu_backward(const Tensor& dy, const Tensor& gate_up) {
  check_gradient(dy, gate_up);
  Tensor dgate_up = Tensor::empty(gate_up.shape(), gate_up.dtype(), gate_up.device());
  Tensor unwanted;
  kSwigluBackward(current_stream(gate_up.device()), {dgate_up, unwanted, dy, gate_up});
  return dgate_up;
}

void swiglu_backward_in_place(Tensor& dy, Tensor& gate_up) {
  check_gradient(dy, gate_up);
  kSwigluBackward(current_stream(gate_up.device()), {gate_up, dy, dy, gate_up});
}

}  // namespace ops
}  // namespace sidewinder
