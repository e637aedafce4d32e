#pragma once
// y = a + b in f64, element by element: the oracle of tests, and the f64 kernel.

#include "kernels/tensor/tensor.h"

namespace sidewinder::reference {

void add(Tensor& y, const Tensor& a, const Tensor& b);  // all f64, of one shape

}  // namespace sidewinder::reference
