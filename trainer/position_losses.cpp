#include "trainer/position_losses.h"

#include <bit>

#include "kernels/base/check.h"

namespace sidewinder {

void PositionLosses::add(const Tensor& positions, const std::vector<int32_t>& targets,
                         const Tensor& losses) {
  SIDEWINDER_ASSERT(positions.count() == losses.count() &&
                    static_cast<int64_t>(targets.size()) == losses.count());
  const int32_t* const position = positions.data<int32_t>();
  const bool is_f64 = losses.dtype() == Dtype::f64;
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    const auto bucket = static_cast<size_t>(std::bit_width(static_cast<uint32_t>(position[t])));
    if (bucket >= buckets_.size()) buckets_.resize(bucket + 1);
    buckets_[bucket].sum +=
        is_f64 ? losses.data<double>()[t] : static_cast<double>(losses.data<float>()[t]);
    ++buckets_[bucket].targets;
  }
}

std::string PositionLosses::name(size_t bucket) {
  if (bucket < 2) return std::to_string(bucket);
  const int64_t first = int64_t{1} << (bucket - 1);
  return std::to_string(first) + "-" + std::to_string(2 * first - 1);
}

}  // namespace sidewinder
