#pragma once
// The generator and checksum of golden cases: tensor number i has elements sin(0.37·(k+1) + 1.3·i);
// the checksum is Σ x[k]·cos(0.11·(k+1)), k the flat index from 0.

#include "kernels/tensor/tensor.h"

namespace sidewinder::golden {

Tensor tensor(int number, Shape shape);  // f64
double checksum(const Tensor& tensor);

}  // namespace sidewinder::golden
