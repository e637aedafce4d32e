#pragma once
// Reproducible test inputs and the relative Frobenius error.

#include <cstdint>

#include "kernels/tensor/tensor.h"

namespace sidewinder::testing {

// Normal with the given standard deviation; the same values (rounded) for every dtype.
Tensor random_normal(Shape shape, Dtype dtype, uint64_t seed, double deviation = 1.0);
// ‖actual − expected‖ / ‖expected‖ (‖actual‖ where expected is zero); NaN if any element is NaN.
double relative_error(const Tensor& actual, const Tensor& expected);
// Whether shapes, types and every bit agree.
bool same_bits(const Tensor& a, const Tensor& b);

}  // namespace sidewinder::testing
