#include "trainer/schedule.h"

#include <gtest/gtest.h>

namespace sidewinder {
namespace {

LearningRateOptions with(LearningRateShape shape) {
  return {.shape = shape, .peak = 1.0, .warmup_steps = 4, .final_share = 0.1, .decay_steps = 10};
}

TEST(Schedule, WarmupIsLinearAndReachesThePeakAtItsLastStep) {
  const LearningRateOptions options = with(LearningRateShape::cosine);
  EXPECT_DOUBLE_EQ(learning_rate_at(options, 0, 100), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate_at(options, 3, 100), 1.0);
}

TEST(Schedule, DecayingShapesEndAtTheFinalShare) {
  for (const auto shape :
       {LearningRateShape::cosine, LearningRateShape::linear, LearningRateShape::wsd}) {
    EXPECT_NEAR(learning_rate_at(with(shape), 99, 100), 0.1, 1e-12);
  }
}

TEST(Schedule, CosineIsHalfwayInTheMiddle) {
  EXPECT_NEAR(learning_rate_at(with(LearningRateShape::cosine), 4 + 47, 99), 0.55, 1e-12);
}

TEST(Schedule, WsdHoldsThePeakUntilItsDecay) {
  const LearningRateOptions options = with(LearningRateShape::wsd);
  EXPECT_DOUBLE_EQ(learning_rate_at(options, 89, 100), 1.0);
  EXPECT_NEAR(learning_rate_at(options, 94, 100), 0.55, 1e-12);
}

TEST(Schedule, ConstantStaysAtThePeak) {
  EXPECT_DOUBLE_EQ(learning_rate_at(with(LearningRateShape::constant), 99, 100), 1.0);
}

TEST(Schedule, NeverRisesAfterWarmup) {
  for (const auto shape :
       {LearningRateShape::cosine, LearningRateShape::linear, LearningRateShape::wsd}) {
    for (int64_t step = 4; step < 99; ++step) {
      EXPECT_LE(learning_rate_at(with(shape), step + 1, 100),
                learning_rate_at(with(shape), step, 100));
    }
  }
}

}  // namespace
}  // namespace sidewinder
