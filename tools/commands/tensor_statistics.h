#pragma once
// What `inspect --tensors` says of the values of a tensor.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

namespace sidewinder {

struct TensorStatistics {
  double mean = 0;  // these three of the finite values
  double deviation = 0;
  double largest = 0;  // magnitude
  int64_t not_finite = 0;
};

// In two passes, so that a mean far from zero takes nothing from the deviation.
template <typename T>
TensorStatistics statistics_of(std::span<const T> values) {
  TensorStatistics result;
  int64_t finite = 0;
  double sum = 0;
  for (const T element : values) {
    const auto value = static_cast<double>(element);
    if (!std::isfinite(value)) continue;
    ++finite;
    sum += value;
    result.largest = std::max(result.largest, std::abs(value));
  }
  result.not_finite = static_cast<int64_t>(values.size()) - finite;
  if (finite == 0) return result;
  result.mean = sum / static_cast<double>(finite);
  double squares = 0;
  for (const T element : values) {
    const double gap = static_cast<double>(element) - result.mean;
    if (std::isfinite(gap)) squares += gap * gap;
  }
  result.deviation = std::sqrt(squares / static_cast<double>(finite));
  return result;
}

}  // namespace sidewinder
