#pragma once
// y = x · rstd · weight,  rstd = 1/√(mean(x²) + eps), over the last axis. Zhang & Sennrich 2019.
// Statistics and the weight gradient are f32 (f64 for f64 inputs).
//
// Backward, with x̂ = x·rstd and e = dy·weight:  dx = rstd · (e − x̂ · mean(e · x̂)),
// dweight = Σ dy · x̂.

#include "kernels/ops/kernel.h"

namespace sidewinder {

struct RmsNormArgs {
  Tensor& y;             // like x in shape; f32|bf16|f64
  Tensor& rstd;          // [rows of the last axis] f32 (f64), kept for backward
  const Tensor& x;       // [T, D] or [T, H, D]
  const Tensor& weight;  // [D] f32 (f64)
  double eps;
};

struct RmsNormBackwardArgs {
  Tensor& dx;       // like x in shape, any floating type
  Tensor& dweight;  // [D] f32 (f64), added to
  Tensor& y;        // like dy, as the forward pass made it; may be dy; undefined: not wanted
  const Tensor& dy;
  const Tensor& x;
  const Tensor& weight;
  const Tensor& rstd;
  bool accumulate;  // dx += instead of dx =: joins the gradient of a residual stream in one pass
};

namespace cpu {
void rms_norm(Stream, const RmsNormArgs&);
void rms_norm_backward(Stream, const RmsNormBackwardArgs&);
}  // namespace cpu

extern Kernel<RmsNormArgs> kRmsNorm;
extern Kernel<RmsNormBackwardArgs> kRmsNormBackward;

namespace ops {

struct RmsNormOut {
  Tensor y, rstd;
};
RmsNormOut rms_norm(const Tensor& x, const Tensor& weight, double eps, Dtype dtype);

// Adds to dweight. When dx is defined it is added to (and must be like x in shape), otherwise it is
// made with type `dtype`.
void rms_norm_backward(Tensor& dx, Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Tensor& weight, const Tensor& rstd, Dtype dtype);
// The same, and dy becomes y with the bits of a forward pass that made dy's type. y thus need not
// be kept for the product that follows.
void rms_norm_backward_in_place(Tensor& dx, Tensor& dweight, Tensor& dy, const Tensor& x,
                                const Tensor& weight, const Tensor& rstd, Dtype dtype);

}  // namespace ops
}  // namespace sidewinder
