#pragma once
// y = x · wᵀ and its relatives as plain f64 loops: the oracle of tests, and the f64 kernels. Sums
// run over the contraction in order; rows are shared among threads.

#include "kernels/tensor/tensor.h"

namespace sidewinder::reference {

// y [T, M] = x [T, K] · wᵀ (+ bias) (+ residual);  w [M, K]. All f64; bias and residual may be
// undefined.
void linear(Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
            const Tensor& residual);

// dweight [M, K] = dyᵀ · x (+ dweight when accumulating);  dy [T, M], x [T, K].
void weight_gradient(Tensor& dweight, const Tensor& dy, const Tensor& x, bool accumulate);

// The transpose of a matrix.
Tensor transpose(const Tensor& matrix);

}  // namespace sidewinder::reference
