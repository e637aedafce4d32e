#pragma once
// Causal depthwise convolution with SiLU, over packed documents:
//   pre_t = bias + Σ_k weight[k] · x_{t−(W−1)+k}      y = silu(pre)
// Terms from before the document's first token are dropped; in a carried row they come from
// `initial`, the W−1 inputs before the row (oldest first).
//
// Backward, with dp = dy · silu'(pre):  dx_j = Σ_k weight[k] · dp_{j+(W−1)−k},
// dweight[k] = Σ_t x_{t−(W−1)+k} · dp_t,  dbias = Σ dp, all within documents.

#include "kernels/ops/kernel.h"
#include "kernels/tensor/sequence_layout.h"

namespace sidewinder {

inline constexpr int64_t kMaxConvWidth = 8;  // W is from 2 to this

struct CausalConvArgs {
  Tensor& y;            // [T, C] like x in type
  Tensor& final_state;  // [rows, W−1, C] f32 (f64): the last W−1 inputs of each row's last document
                        // (zero where it is shorter); undefined: not wanted
  const Tensor& x;        // [T, C]
  const Tensor& weight;   // [C, W] f32 (f64)
  const Tensor& bias;     // [C] f32 (f64), or undefined
  const Tensor& initial;  // [rows, W−1, C] f32 (f64), or undefined (zero)
  const SequenceLayout& layout;
};

struct CausalConvBackwardArgs {
  Tensor& dx;        // [T, C] like x in type
  Tensor& dweight;   // [C, W], added to
  Tensor& dbias;     // [C], added to, or undefined
  Tensor& dinitial;  // [rows, W−1, C], or undefined (not wanted)
  const Tensor& dy;
  const Tensor& dfinal;  // [rows, W−1, C], or undefined (zero)
  const Tensor& x;
  const Tensor& weight;
  const Tensor& bias;
  const Tensor& initial;
  const SequenceLayout& layout;
};

namespace cpu {
void causal_conv(Stream, const CausalConvArgs&);
void causal_conv_backward(Stream, const CausalConvBackwardArgs&);
}  // namespace cpu

extern Kernel<CausalConvArgs> kCausalConv;
extern Kernel<CausalConvBackwardArgs> kCausalConvBackward;

namespace ops {

struct CausalConvOut {
  Tensor y, final_state;
};
CausalConvOut causal_conv(const Tensor& x, const Tensor& weight, const Tensor& bias,
                          const SequenceLayout& layout, const Tensor& initial = {},
                          bool want_final_state = false);

struct CausalConvGradients {
  Tensor dx, dinitial;
};
// Adds to dweight and dbias.
CausalConvGradients causal_conv_backward(Tensor& dweight, Tensor& dbias, const Tensor& dy,
                                         const Tensor& x, const Tensor& weight, const Tensor& bias,
                                         const SequenceLayout& layout, const Tensor& initial = {},
                                         const Tensor& dfinal = {});

}  // namespace ops
}  // namespace sidewinder
