#pragma once
// Matrix products of linear layers, y = x · Wᵀ, and their gradients. Weights are packed for the
// micro-kernels once per optimizer step and then used by all micro-batches.
//
// `compute` is the type the products are formed in: f32, bf16 (operands rounded to bf16, f32 sums;
// plain f32 where the CPU has no bf16 instructions) or f64. Operands of another type are converted
// while packing. Sums over the contracted axis have a fixed order that depends on the shape alone;
// a row of y has the same bits whichever other rows are in the call.

#include "kernels/ops/kernel.h"

namespace sidewinder {

enum class WeightUse : uint8_t {
  forward,   // y [T, M] = x [T, K] · Wᵀ
  backward,  // dx [T, K] = dy [T, M] · W
};

// The layout of `data` belongs to the backend, and on the CPU to the instruction-set level, that
// made it.
struct PackedWeight {
  Tensor data;
  int64_t out = 0;  // columns of the product: M for forward, K for backward
  int64_t in = 0;   // contracted length: K for forward, M for backward
  Dtype compute = Dtype::f32;

  bool defined() const { return data.defined(); }
};

struct PackWeightArgs {
  PackedWeight& packed;  // data is allocated by the kernel
  const Tensor& weight;  // [M, K] f32|bf16|f64
  WeightUse use;
};

struct LinearArgs {
  Tensor& y;        // [T, out] f32|bf16|f64
  const Tensor& x;  // [T, in] f32|bf16|f64
  const PackedWeight& weight;
  const Tensor& bias;      // [out] f32 (f64), or undefined
  const Tensor& residual;  // [T, out], added to the product before rounding, or undefined
};

struct WeightGradientArgs {
  Tensor& dweight;   // [M, K] f32 (f64)
  const Tensor& dy;  // [T, M]
  const Tensor& x;   // [T, K]
  Dtype compute;
  bool accumulate;  // dweight += instead of dweight =
};

extern Kernel<PackWeightArgs> kPackWeight;
extern Kernel<LinearArgs> kLinear;
extern Kernel<WeightGradientArgs> kWeightGradient;

namespace cpu {
void pack_weight(Stream, const PackWeightArgs&);
void linear(Stream, const LinearArgs&);
void weight_gradient(Stream, const WeightGradientArgs&);
}  // namespace cpu

namespace ops {

PackedWeight pack_weight(const Tensor& weight, WeightUse use, Dtype compute);

struct LinearExtras {
  Tensor bias;
  Tensor residual;
};
// y = x · Wᵀ (+ bias) (+ residual), as `dtype`.
Tensor linear(const Tensor& x, const PackedWeight& weight, Dtype dtype,
              const LinearExtras& extras = {});
// dweight += dyᵀ · x  (= when not accumulating).
void weight_gradient(Tensor& dweight, const Tensor& dy, const Tensor& x, Dtype compute,
                     bool accumulate = true);

}  // namespace ops
}  // namespace sidewinder
