#include "tests/support/golden.h"

#include <cmath>

namespace sidewinder::golden {

Tensor tensor(int number, Shape shape) {
  Tensor result = Tensor::empty(shape, Dtype::f64);
  for (int64_t k = 0; k < result.count(); ++k) {
    result.data<double>()[k] = std::sin(0.37 * static_cast<double>(k + 1) + 1.3 * number);
  }
  return result;
}

double checksum(const Tensor& tensor) {
  double sum = 0;
  for (int64_t k = 0; k < tensor.count(); ++k) {
    sum += tensor.at(k) * std::cos(0.11 * static_cast<double>(k + 1));
  }
  return sum;
}

}  // namespace sidewinder::golden
