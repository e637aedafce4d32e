#include "tools/commands/generate.h"

#include <gtest/gtest.h>

#include <map>

#include "kernels/base/philox.h"

namespace sidewinder {
namespace {

// Probabilities 0.5, 0.25, 0.125, 0.125 for ids 2, 0, 1, 3.
Tensor logits() {
  return Tensor::from<float>({4}, {-1.3862944F, -2.0794415F, -0.6931472F, -2.0794415F});
}

std::map<int32_t, double> shares(const SamplingOptions& options) {
  std::map<int32_t, double> counts;
  const Philox random(1, "test");
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    counts[sample(logits(), options, random.uniform(static_cast<uint64_t>(i)))] += 1.0 / kDraws;
  }
  return counts;
}

TEST(Sampling, FollowsTheDistribution) {
  const auto counts = shares({});
  EXPECT_NEAR(counts.at(2), 0.5, 0.02);
  EXPECT_NEAR(counts.at(0), 0.25, 0.02);
  EXPECT_NEAR(counts.at(3), 0.125, 0.02);
}

TEST(Sampling, TemperatureZeroTakesTheMostLikely) {
  EXPECT_EQ(shares({.temperature = 0}).size(), 1U);
  EXPECT_EQ(sample(logits(), {.temperature = 0}, 0.99), 2);
}

TEST(Sampling, LowTemperatureSharpens) {
  EXPECT_NEAR(shares({.temperature = 0.5}).at(2), 0.25 / (0.25 + 0.0625 + 2 * 0.015625), 0.02);
}

TEST(Sampling, TopKKeepsTheKMostLikely) {
  const auto counts = shares({.temperature = 1.0, .top_k = 2});
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_NEAR(counts.at(2), 2.0 / 3, 0.02);
}

TEST(Sampling, TiesInTopKGoToTheSmallerId) {
  const auto counts = shares({.temperature = 1.0, .top_k = 3});
  EXPECT_EQ(counts.count(1), 1U);
  EXPECT_EQ(counts.count(3), 0U);
}

TEST(Sampling, TopPKeepsTheSmallestSetThatHoldsIt) {
  EXPECT_EQ(shares({.temperature = 1.0, .top_k = 0, .top_p = 0.5}).size(), 1U);
  EXPECT_EQ(shares({.temperature = 1.0, .top_k = 0, .top_p = 0.7}).size(), 2U);
  EXPECT_EQ(shares({.temperature = 1.0, .top_k = 0, .top_p = 0.76}).size(), 3U);
}

}  // namespace
}  // namespace sidewinder
