#include "kernels/tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/random.h"

namespace sidewinder {
namespace {

using testing::random_normal;

void expect_same(const Tensor& actual, const Tensor& expected, double tolerance) {
  ASSERT_EQ(actual.shape(), expected.shape());
  for (int64_t i = 0; i < expected.count(); ++i) {
    const double error = std::abs(actual.at(i) - expected.at(i));
    if (!(error <= tolerance * std::abs(expected.at(i)))) FAIL() << "element " << i;
  }
}

// Half a unit of the last place.
double rounding(Dtype to) { return to == Dtype::bf16 ? 1.0 / 256 : 0x1p-24; }

TEST(Tensor, CopiesAndConvertsAnyShape) {
  for (const Shape shape :
       {Shape{65537}, Shape{21847, 3}, Shape{3, 40}, Shape{7, 11, 13}, Shape{0, 4}}) {
    for (const Dtype from : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
      const Tensor x = random_normal(shape, from, 1);
      for (const Dtype to : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
        expect_same(x.to(to), x, from == to ? 0 : rounding(to));
      }
    }
  }
}

TEST(Tensor, CopiesToAndFromViews) {
  const Tensor x = random_normal({1000, 9}, Dtype::f32, 1);
  Tensor all = Tensor::zeros({1000, 9}, Dtype::f32);
  Tensor middle = all.columns(2, 5);
  middle.copy_from(x.columns(4, 7));
  expect_same(middle.clone(), x.columns(4, 7).clone(), 0);
  for (int64_t row = 0; row < 1000; ++row) {
    for (const int64_t column : {0, 1, 5, 8}) ASSERT_EQ(all.at(row * 9 + column), 0);
    ASSERT_EQ(all.at(row * 9 + 2), x.at(row * 9 + 4));
  }
  middle.copy_from(x.columns(0, 3).clone());  // dense to strided
  expect_same(middle.clone(), x.columns(0, 3).clone(), 0);
}

TEST(Tensor, CopiesBetweenShapesOfEqualCount) {
  const Tensor x = random_normal({12, 35}, Dtype::f32, 1);
  Tensor y = Tensor::zeros({420}, Dtype::f32);
  y.copy_from(x);
  expect_same(y, x.reshape({420}), 0);
}

}  // namespace
}  // namespace sidewinder
