#include "kernels/ops/norm_sq.h"

namespace sidewinder {

Kernel<NormSqArgs> kNormSq{"norm_sq", &cpu::norm_sq};

namespace ops {

double norm_sq(const Tensor& x) {
  SIDEWINDER_REQUIRE(x.defined() && x.dtype() != Dtype::i32,
                     "norm_sq: x must be a tensor of f32, bf16 or f64");
  const Tensor dense = x.contiguous() ? x : x.clone();
  Tensor sum = Tensor::empty({1}, Dtype::f64, x.device());
  kNormSq(current_stream(x.device()), {sum, dense});
  return sum.data<double>()[0];
}

}  // namespace ops
}  // namespace sidewinder
