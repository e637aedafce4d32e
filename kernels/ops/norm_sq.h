#pragma once
// Σ x² in f64: partial sums of 65536 elements each, added in order. Not finite if any element is
// not.

#include "kernels/ops/kernel.h"

namespace sidewinder {

struct NormSqArgs {
  Tensor& sum;  // f64 [1]
  const Tensor& x;
};

namespace cpu {
void norm_sq(Stream, const NormSqArgs&);
}

extern Kernel<NormSqArgs> kNormSq;

namespace ops {
double norm_sq(const Tensor& x);
}

}  // namespace sidewinder
