#pragma once
// The output layer and its loss in one operation, over chunks of tokens, so that tokens ×
// vocabulary never exists:
//   logits = x · Wᵀ;  with a soft cap: logits = cap · tanh(logits / cap)
//   loss = scale · Σ_t ( lse_t − logit_{t, target} + z_loss · lse_t² )    over targets ≥ 0
// Gradients are formed in the forward pass (Liger, 2024): g = scale · (softmax · (1 + 2·z_loss·lse)
// − onehot) · (1 − (logit/cap)²),  dx = g · W,  dW += gᵀ · x.

#include "kernels/ops/kernel.h"
#include "kernels/ops/matmul.h"

namespace sidewinder {

struct CrossEntropyOptions {
  double z_loss = 0.0;
  double soft_cap = 0.0;  // 0: none
  int64_t valid_vocabulary =
      0;  // ids from here on are padding and get no probability; 0: all valid
};

struct LinearCrossEntropyArgs {
  Tensor& loss;        // f64 [1]
  Tensor& token_loss;  // [T] f32 (f64): lse − logit of the target; 0 where the target is ignored
  Tensor& dx;          // [T, D] like x, or undefined: no gradients wanted
  Tensor& dweight;     // [V, D] f32 (f64), added to, or undefined
  const Tensor& x;     // [T, D] f32|bf16|f64
  const PackedWeight& weight_forward;
  const PackedWeight& weight_backward;  // not read when dx is undefined
  const Tensor& targets;                // i32 [T]; negative: ignored
  double scale;
  CrossEntropyOptions options;
};

extern Kernel<LinearCrossEntropyArgs> kLinearCrossEntropy;

namespace cpu {
void linear_cross_entropy(Stream, const LinearCrossEntropyArgs&);
}

namespace ops {

struct LinearCrossEntropyOut {
  Tensor loss, token_loss, dx;
};
// With `dweight` undefined nothing but the losses is computed.
LinearCrossEntropyOut linear_cross_entropy(const Tensor& x, const PackedWeight& weight_forward,
                                           const PackedWeight& weight_backward,
                                           const Tensor& targets, double scale,
                                           const CrossEntropyOptions& options, Tensor dweight);

}  // namespace ops
}  // namespace sidewinder
