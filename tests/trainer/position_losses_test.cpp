#include "trainer/position_losses.h"

#include <gtest/gtest.h>

namespace sidewinder {
namespace {

TEST(PositionLosses, BucketsArePowersOfTwo) {
  const Tensor positions = Tensor::from<int32_t>({7}, {0, 1, 2, 3, 4, 7, 8});
  const Tensor losses = Tensor::from<float>({7}, {1, 2, 3, 4, 5, 6, 7});
  PositionLosses by_position;
  by_position.add(positions, {9, 9, 9, 9, 9, -1, 9}, losses);
  by_position.add(positions, {-1, -1, 5, -1, -1, -1, -1}, losses.to(Dtype::f64));
  const auto& buckets = by_position.buckets();
  ASSERT_EQ(buckets.size(), 5U);
  const std::vector<std::pair<double, int64_t>> expected = {
      {1, 1}, {2, 1}, {10, 3}, {5, 1}, {7, 1}};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(buckets[i].sum, expected[i].first) << i;
    EXPECT_EQ(buckets[i].targets, expected[i].second) << i;
  }
  EXPECT_EQ(PositionLosses::name(0), "0");
  EXPECT_EQ(PositionLosses::name(1), "1");
  EXPECT_EQ(PositionLosses::name(2), "2-3");
  EXPECT_EQ(PositionLosses::name(11), "1024-2047");
}

}  // namespace
}  // namespace sidewinder
