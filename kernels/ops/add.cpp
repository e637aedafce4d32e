#include "kernels/ops/add.h"

namespace sidewinder {

Kernel<AddArgs> kAdd{"add", &cpu::add};

namespace ops {
namespace {

void check(const char* name, const Tensor& a, const Tensor& b) {
  SIDEWINDER_REQUIRE(a.shape() == b.shape(), "{}: the operands are {} and {}; they must agree",
                     name, a.shape().text(), b.shape().text());
  SIDEWINDER_REQUIRE(a.dtype() != Dtype::i32 && b.dtype() != Dtype::i32,
                     "{}: the operands are {} and {}; both must be floating", name,
                     name_of(a.dtype()), name_of(b.dtype()));
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b, Dtype dtype) {
  check("add", a, b);
  SIDEWINDER_REQUIRE(dtype != Dtype::i32, "add: the sum cannot be i32; ask for a floating type");
  Tensor y = Tensor::empty(a.shape(), dtype, a.device());
  kAdd(current_stream(a.device()), {y, a, b});
  return y;
}

void add_to(Tensor& y, const Tensor& x) {
  check("add_to", y, x);
  kAdd(current_stream(y.device()), {y, y, x});
}

}  // namespace ops
}  // namespace sidewinder
