#pragma once
// Gradients by the complex step (Squire and Trapp 1998): ∂f/∂v = Im f(v + i·h)/h, exact to rounding
// for tiny h.

#include <gtest/gtest.h>

#include <complex>
#include <string>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace sidewinder::testing {

using Complex = std::complex<double>;

inline std::vector<Complex> complex_of(const Tensor& tensor) {
  const std::vector<double> values = tensor.values();
  return {values.begin(), values.end()};
}

// Σ values · weights.
inline Complex dot(const std::vector<Complex>& values, const Tensor& weights) {
  Complex sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += values[i] * weights.at(static_cast<int64_t>(i));
  return sum;
}

// `gradient` is that of loss(), a complex number, with respect to `values`, which it reads.
template <typename Loss>
void expect_complex_step(const Tensor& gradient, std::vector<Complex>& values, const Loss& loss,
                         double limit, const std::string& name) {
  constexpr double kStep = 1e-30;
  ASSERT_EQ(gradient.count(), static_cast<int64_t>(values.size())) << name;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] += Complex(0, kStep);
    EXPECT_NEAR(gradient.at(static_cast<int64_t>(i)), loss().imag() / kStep, limit) << name;
    values[i] = values[i].real();
  }
}

}  // namespace sidewinder::testing
