#pragma once
// Losses by the position of the token that predicts, in powers of two: 0, 1, 2–3, 4–7, …

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace sidewinder {

class PositionLosses {
 public:
  struct Bucket {
    double sum = 0;  // nats
    int64_t targets = 0;
  };

  // `positions` i32 [T], `losses` f32 or f64 [T]; tokens without a target do not count.
  void add(const Tensor& positions, const std::vector<int32_t>& targets, const Tensor& losses);

  // Bucket 0 holds position 0, bucket i positions 2^(i−1) … 2^i − 1.
  const std::vector<Bucket>& buckets() const { return buckets_; }
  static std::string name(size_t bucket);  // "0", "1", "2-3", "4-7"

 private:
  std::vector<Bucket> buckets_;
};

}  // namespace sidewinder
