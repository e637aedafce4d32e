#include "kernels/ops/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <vector>

#include "kernels/reference/swiglu.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::relative_error;
using testing::same_bits;
using Complex = std::complex<double>;

Tensor plain_forward(const Tensor& gate_up, Dtype dtype) {
  const int64_t width = gate_up.width() / 2;
  const Tensor in = gate_up.to(Dtype::f32);
  Tensor y = Tensor::empty({gate_up.rows(), width}, Dtype::f32);
  for (int64_t i = 0; i < y.count(); ++i) {
    const float* gate = in.data<float>() + i / width * 2 * width + i % width;
    y.data<float>()[i] = reference::swiglu_element(gate[0], gate[width]);
  }
  return y.to(dtype);
}

Tensor plain_backward(const Tensor& dy, const Tensor& gate_up, Dtype dtype) {
  const int64_t width = gate_up.width() / 2;
  const Tensor in = gate_up.to(Dtype::f32);
  const Tensor dy32 = dy.to(Dtype::f32);
  Tensor out = Tensor::empty(gate_up.shape(), Dtype::f32);
  for (int64_t i = 0; i < dy.count(); ++i) {
    const int64_t at = i / width * 2 * width + i % width;
    reference::swiglu_element_backward(out.data<float>()[at], out.data<float>()[at + width],
                                       dy32.data<float>()[i], in.data<float>()[at],
                                       in.data<float>()[at + width]);
  }
  return out.to(dtype);
}

TEST(Swiglu, GradientsMatchComplexStep) {
  const Tensor gate_up = random_normal({3, 10}, Dtype::f64, 1, 3.0);
  const Tensor dy = random_normal({3, 5}, Dtype::f64, 2);
  const Tensor gradient = ops::swiglu_backward(dy, gate_up);
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t i = 0; i < 5; ++i) {
      const Complex gate = gate_up.at(row * 10 + i);
      const Complex up = gate_up.at(row * 10 + 5 + i);
      const Complex step(0, 1e-30);
      const double scale = dy.at(row * 5 + i) / 1e-30;
      const double dgate = scale * reference::swiglu_element(gate + step, up).imag();
      const double dup = scale * reference::swiglu_element(gate, up + step).imag();
      EXPECT_NEAR(gradient.at(row * 10 + i), dgate, 1e-13);
      EXPECT_NEAR(gradient.at(row * 10 + 5 + i), dup, 1e-13);
    }
  }
}

TEST(Swiglu, IsAsGoodAsThePlainestComputation) {
  testing::for_each_isa([] {
    for (const int64_t width : {1, 15, 16, 17, 31, 64, 101}) {
      for (const int64_t rows : {1, 2, 53}) {
        for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
          const Tensor gate_up = random_normal({rows, 2 * width}, dtype, 3, 4.0);
          const Tensor dy = random_normal({rows, width}, dtype, 4);
          const Tensor exact = ops::swiglu(gate_up.to(Dtype::f64));
          const Tensor exact_gradient =
              ops::swiglu_backward(dy.to(Dtype::f64), gate_up.to(Dtype::f64));
          EXPECT_LE(relative_error(ops::swiglu(gate_up), exact),
                    2 * relative_error(plain_forward(gate_up, dtype), exact) + 1e-7)
              << rows << " x " << width;
          EXPECT_LE(relative_error(ops::swiglu_backward(dy, gate_up), exact_gradient),
                    2 * relative_error(plain_backward(dy, gate_up, dtype), exact_gradient) + 1e-7)
              << rows << " x " << width;
        }
      }
    }
  });
}

TEST(Swiglu, SaturatesWithoutNan) {
  testing::for_each_isa([] {
    const std::vector<float> values = {-1000, -100, -88, 88, 100, 1000, /*up*/ 1, 1, 1, 1, 1, 1};
    const Tensor gate_up = Tensor::from<float>({1, 12}, values);
    const Tensor y = ops::swiglu(gate_up);
    const Tensor dy = Tensor::from<float>({1, 6}, std::vector<float>(6, 1.0F));
    const Tensor gradient = ops::swiglu_backward(dy, gate_up);
    for (int64_t i = 0; i < 3; ++i) EXPECT_NEAR(y.at(i), 0, 1e-30);
    for (int64_t i = 3; i < 6; ++i) EXPECT_EQ(y.at(i), gate_up.at(i));
    for (int64_t i = 0; i < 6; ++i) EXPECT_NEAR(gradient.at(i), i < 3 ? 0 : 1, 1e-30);
  });
}

TEST(Swiglu, ReadsViewsOfWideRows) {
  const Tensor wide = random_normal({33, 100}, Dtype::bf16, 5);
  const Tensor view = wide.columns(20, 82);
  const Tensor dy_wide = random_normal({33, 40}, Dtype::bf16, 6);
  const Tensor dy = dy_wide.columns(4, 35);
  EXPECT_TRUE(same_bits(ops::swiglu(view), ops::swiglu(view.clone())));
  EXPECT_TRUE(
      same_bits(ops::swiglu_backward(dy, view), ops::swiglu_backward(dy.clone(), view.clone())));
}

// Results beyond the caches are stored past them. Rows of this width begin on lines and off them.
TEST(Swiglu, LargeResultsHaveTheBitsOfSmallOnes) {
  constexpr int64_t kRepeated = 35;
  constexpr int64_t kWidth = 8197;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const int64_t rows = kRepeated * (dtype == Dtype::f32 ? 30 : 60);
    const Tensor few = random_normal({kRepeated, 2 * kWidth}, dtype, 9);
    const Tensor few_dy = random_normal({kRepeated, kWidth}, dtype, 10);
    const Tensor gate_up = Tensor::empty({rows, 2 * kWidth}, dtype);
    const Tensor dy = Tensor::empty({rows, kWidth}, dtype);
    for (int64_t row = 0; row < rows; row += kRepeated) {
      gate_up.slice_rows(row, row + kRepeated).copy_from(few);
      dy.slice_rows(row, row + kRepeated).copy_from(few_dy);
    }
    const Tensor y = ops::swiglu(gate_up);
    const Tensor gradient = ops::swiglu_backward(dy, gate_up);
    ASSERT_GT(y.bytes(), size_t{32} << 20);
    const Tensor few_y = ops::swiglu(few);
    const Tensor few_gradient = ops::swiglu_backward(few_dy, few);
    for (int64_t row = 0; row < rows; row += kRepeated) {
      ASSERT_TRUE(same_bits(y.slice_rows(row, row + kRepeated), few_y)) << row;
      ASSERT_TRUE(same_bits(gradient.slice_rows(row, row + kRepeated), few_gradient)) << row;
    }
  }
}

TEST(Swiglu, BackwardInPlaceLeavesTheResultWhereItsGradientWas) {
  testing::for_each_isa([] {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
      for (const int64_t width : {1, 16, 31, 101}) {
        const Tensor gate_up = random_normal({53, 2 * width}, dtype, 5, 4.0);
        const Tensor dy = random_normal({53, width}, dtype, 6);
        const Tensor wide = random_normal({53, width + 3}, dtype, 7);
        Tensor y = wide.columns(2, width + 2);
        y.copy_from(dy);
        Tensor dgate_up = gate_up.clone();
        ops::swiglu_backward_in_place(y, dgate_up);
        EXPECT_TRUE(same_bits(dgate_up, ops::swiglu_backward(dy, gate_up)));
        EXPECT_TRUE(same_bits(y.clone(), ops::swiglu(gate_up)));
      }
    }
  });
}

TEST(Swiglu, AnyNumberOfThreadsGivesTheSameBits) {
  const Tensor gate_up = random_normal({700, 2 * 300}, Dtype::f32, 7);
  const Tensor dy = random_normal({700, 300}, Dtype::f32, 8);
  Tensor y;
  Tensor gradient;
  testing::for_each_pool_size([&](int size) {
    if (size == 1) {
      y = ops::swiglu(gate_up);
      gradient = ops::swiglu_backward(dy, gate_up);
    }
    EXPECT_TRUE(same_bits(ops::swiglu(gate_up), y));
    EXPECT_TRUE(same_bits(ops::swiglu_backward(dy, gate_up), gradient));
  });
}

TEST(Swiglu, RefusesOddWidthsAndOtherTypes) {
  EXPECT_THROW(ops::swiglu(random_normal({2, 5}, Dtype::f32, 1)), Error);
  const Tensor gate_up = random_normal({2, 6}, Dtype::f32, 1);
  try {
    ops::swiglu_backward(random_normal({2, 4}, Dtype::bf16, 2), gate_up);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "swiglu_backward: dy is bf16 [2, 4] but must be f32 [2, 3] to go with gate_up");
  }
}

}  // namespace
}  // namespace sidewinder
