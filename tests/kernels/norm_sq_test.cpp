#include "kernels/ops/norm_sq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;

double plain(const Tensor& x) {
  double sum = 0;
  for (int64_t i = 0; i < x.count(); ++i) sum += x.at(i) * x.at(i);
  return sum;
}

TEST(NormSq, SumsInDouble) {
  testing::for_each_isa([] {
    for (const int64_t count : {1, 15, 16, 17, 31, 32, 33, 65535, 65536, 65537}) {
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
        const Tensor x = random_normal({count}, dtype, 1);
        EXPECT_NEAR(ops::norm_sq(x), plain(x), 1e-12 * plain(x)) << count;
      }
    }
  });
}

TEST(NormSq, ReadsViewsOfWideRows) {
  const Tensor wide = random_normal({20, 30}, Dtype::f32, 2);
  const Tensor view = wide.columns(3, 20);
  EXPECT_NEAR(ops::norm_sq(view), plain(view), 1e-12);
}

TEST(NormSq, IsZeroForNoElements) { EXPECT_EQ(ops::norm_sq(Tensor::empty({0}, Dtype::f32)), 0); }

TEST(NormSq, IsNotFiniteIfAnyElementIsNot) {
  testing::for_each_isa([] {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const int64_t at : {0, 63, 64, 99}) {
        Tensor x = random_normal({100}, Dtype::f32, 3);
        x.data<float>()[at] = bad;
        EXPECT_FALSE(std::isfinite(ops::norm_sq(x)));
      }
    }
  });
}

// Squares beyond the range of f32 are counted.
TEST(NormSq, DoesNotOverflowInSingle) {
  EXPECT_DOUBLE_EQ(ops::norm_sq(Tensor::from<float>({1}, {std::ldexp(1.0F, 100)})),
                   std::ldexp(1.0, 200));
}

TEST(NormSq, AnyNumberOfThreadsGivesTheSameBits) {
  const Tensor x = random_normal({500009}, Dtype::f32, 4);
  double first = 0;
  testing::for_each_pool_size([&](int size) {
    if (size == 1) first = ops::norm_sq(x);
    EXPECT_EQ(ops::norm_sq(x), first);
  });
}

}  // namespace
}  // namespace sidewinder
