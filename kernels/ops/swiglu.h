#pragma once
// y = silu(gate) · up, where gate_up = [gate | up] side by side. Shazeer 2020 (arXiv:2002.05202).
// Backward: dgate = dy · up · silu'(gate),  dup = dy · silu(gate).

#include "kernels/ops/kernel.h"

namespace sidewinder {

struct SwigluArgs {
  Tensor& y;              // [T, F] like gate_up in type
  const Tensor& gate_up;  // [T, 2F] f32|bf16|f64
};

struct SwigluBackwardArgs {
  Tensor& dgate_up;  // [T, 2F] like gate_up; may be gate_up
  Tensor& y;         // [T, F], as the forward pass made it; may be dy; undefined: not wanted
  const Tensor& dy;  // [T, F] like gate_up in type
  const Tensor& gate_up;
};

namespace cpu {
void swiglu(Stream, const SwigluArgs&);
void swiglu_backward(Stream, const SwigluBackwardArgs&);
}  // namespace cpu

extern Kernel<SwigluArgs> kSwiglu;
extern Kernel<SwigluBackwardArgs> kSwigluBackward;

namespace ops {
Tensor swiglu(const Tensor& gate_up);
Tensor swiglu_backward(const Tensor& dy, const Tensor& gate_up);
// The same over its operands: gate_up becomes its gradient, and dy becomes y with the bits of the
// forward pass, which thus need not be kept for the product that follows.
void swiglu_backward_in_place(Tensor& dy, Tensor& gate_up);
}  // namespace ops

}  // namespace sidewinder
