#include "tests/support/random.h"

#include <cmath>
#include <cstring>

#include "kernels/base/philox.h"

namespace sidewinder::testing {

Tensor random_normal(Shape shape, Dtype dtype, uint64_t seed, double deviation) {
  Tensor result = Tensor::empty(shape, Dtype::f64);
  const Philox random(seed, "test");
  for (int64_t i = 0; i < result.count(); ++i) {
    result.data<double>()[i] = deviation * random.normal(static_cast<uint64_t>(i));
  }
  return dtype == Dtype::f64 ? result : result.to(dtype);
}

double relative_error(const Tensor& actual, const Tensor& expected) {
  SIDEWINDER_ASSERT(actual.shape() == expected.shape());
  double difference = 0;
  double norm = 0;
  for (int64_t i = 0; i < actual.count(); ++i) {
    const double gap = actual.at(i) - expected.at(i);
    difference += gap * gap;
    norm += expected.at(i) * expected.at(i);
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  const size_t row_bytes = static_cast<size_t>(a.width()) * size_of(a.dtype());
  for (int64_t row = 0; row < a.rows(); ++row) {
    if (std::memcmp(a.slice_rows(row, row + 1).raw(), b.slice_rows(row, row + 1).raw(), row_bytes) !=
        0) {
      return false;
    }
  }
  return true;
}

}  // namespace sidewinder::testing
