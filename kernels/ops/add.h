#pragma once
// y = a + b and y += x, element by element, in the wider type of the two.

#include "kernels/ops/kernel.h"

namespace sidewinder {

struct AddArgs {
  Tensor& y;
  const Tensor& a;
  const Tensor& b;
};

extern Kernel<AddArgs> kAdd;

namespace cpu {
void add(Stream, const AddArgs&);
}

namespace ops {
Tensor add(const Tensor& a, const Tensor& b, Dtype dtype);
void add_to(Tensor& y, const Tensor& x);
}  // namespace ops

}  // namespace sidewinder
