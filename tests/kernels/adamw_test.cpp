#include "kernels/ops/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/reference/adamw.h"
#include "tests/support/golden.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::relative_error;
using testing::same_bits;

struct State {
  Tensor weight, m, v;
};

State zero_moments(const Tensor& weight) {
  return {weight.clone(), Tensor::zeros(weight.shape(), weight.dtype()),
          Tensor::zeros(weight.shape(), weight.dtype())};
}

TEST(Adamw, MatchesGoldenValues) {
  State s = zero_moments(golden::tensor(0, {5}));
  for (int step = 1; step <= 3; ++step) {
    const AdamwCoefficients c{.learning_rate = 1e-2, .weight_decay = 0.1, .step = step};
    ops::adamw(s.weight, s.m, s.v, golden::tensor(step, {5}), c);
  }
  EXPECT_NEAR(golden::checksum(s.weight), 3.56056330142, 1e-10);
  EXPECT_NEAR(golden::checksum(s.m), -0.352483266787, 1e-11);
  EXPECT_NEAR(golden::checksum(s.v), 0.356814875731, 1e-11);
}

TEST(Adamw, IsAsGoodAsThePlainestComputation) {
  testing::for_each_isa([] {
    for (const int64_t count : {1, 15, 16, 17, 1000}) {
      State s = zero_moments(random_normal({count}, Dtype::f32, 1));
      State plain = zero_moments(s.weight);
      State exact = zero_moments(s.weight.to(Dtype::f64));
      for (int step = 1; step <= 5; ++step) {
        const AdamwCoefficients c{
            .learning_rate = 3e-3, .weight_decay = 0.1, .gradient_scale = 0.37, .step = step};
        const Tensor gradient = random_normal({count}, Dtype::f32, static_cast<uint64_t>(step));
        ops::adamw(s.weight, s.m, s.v, gradient, c);
        ops::adamw(exact.weight, exact.m, exact.v, gradient.to(Dtype::f64), c);
        for (int64_t i = 0; i < count; ++i) {
          reference::adamw_element(plain.weight.data<float>()[i], plain.m.data<float>()[i],
                                   plain.v.data<float>()[i], gradient.data<float>()[i], c);
        }
      }
      EXPECT_LE(relative_error(s.weight, exact.weight),
                2 * relative_error(plain.weight, exact.weight) + 1e-8);
      EXPECT_LE(relative_error(s.m, exact.m), 2 * relative_error(plain.m, exact.m) + 1e-7);
      EXPECT_LE(relative_error(s.v, exact.v), 2 * relative_error(plain.v, exact.v) + 1e-7);
    }
  });
}

TEST(Adamw, OneStepIsWithinTwoUnitsInTheLastPlace) {
  testing::for_each_isa([] {
    State s = zero_moments(random_normal({4096}, Dtype::f32, 1));
    State exact = zero_moments(s.weight.to(Dtype::f64));
    const Tensor gradient = random_normal({4096}, Dtype::f32, 2);
    const AdamwCoefficients c{.learning_rate = 1e-3, .weight_decay = 0.1};
    ops::adamw(s.weight, s.m, s.v, gradient, c);
    ops::adamw(exact.weight, exact.m, exact.v, gradient.to(Dtype::f64), c);
    for (int64_t i = 0; i < 4096; ++i) {
      // Near zero the unit is that of the subtracted step, not of the small difference.
      const double unit = std::ldexp(std::max(std::abs(exact.weight.at(i)), 1e-3), -23);
      EXPECT_NEAR(s.weight.at(i), exact.weight.at(i), 2 * unit);
    }
  });
}

TEST(Adamw, ZeroGradientOnlyDecays) {
  State s = zero_moments(random_normal({33}, Dtype::f32, 1));
  const Tensor before = s.weight.clone();
  const Tensor gradient = Tensor::zeros({33}, Dtype::f32);
  ops::adamw(s.weight, s.m, s.v, gradient, {.learning_rate = 0.5, .weight_decay = 0.5});
  for (int64_t i = 0; i < 33; ++i)
    EXPECT_EQ(s.weight.data<float>()[i], 0.75F * before.data<float>()[i]);
}

TEST(Adamw, AnyNumberOfThreadsGivesTheSameBits) {
  const Tensor gradient = random_normal({300001}, Dtype::f32, 2);
  State first;
  testing::for_each_pool_size([&](int size) {
    State s = zero_moments(random_normal({300001}, Dtype::f32, 1));
    ops::adamw(s.weight, s.m, s.v, gradient, {.learning_rate = 1e-3, .weight_decay = 0.1});
    if (size == 1) first = s;
    EXPECT_TRUE(same_bits(s.weight, first.weight));
    EXPECT_TRUE(same_bits(s.m, first.m));
    EXPECT_TRUE(same_bits(s.v, first.v));
  });
}

TEST(Adamw, RefusesStepsBelowOneAndOtherShapes) {
  State s = zero_moments(random_normal({3}, Dtype::f32, 1));
  const Tensor gradient = Tensor::zeros({3}, Dtype::f32);
  EXPECT_THROW(ops::adamw(s.weight, s.m, s.v, gradient, {.step = 0}), Error);
  EXPECT_THROW(ops::adamw(s.weight, s.m, s.v, gradient.to(Dtype::f64), {}), Error);
  try {
    ops::adamw(s.weight, s.m, s.v, Tensor::zeros({4}, Dtype::f32), {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "adamw: the gradient is f32 [4] but must be like the weight, f32 [3], and "
                 "contiguous");
  }
}

}  // namespace
}  // namespace sidewinder
