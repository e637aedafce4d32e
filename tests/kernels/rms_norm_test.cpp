#include "kernels/ops/rms_norm.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/reference/rms_norm.h"
#include "tests/support/complex_step.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::relative_error;
using testing::same_bits;

constexpr float kEps = 1e-5F;

struct Case {
  Tensor x, weight, dy;  // f64, but values that `dtype` represents
};

Case make_case(int64_t rows, int64_t width, Dtype x, Dtype dy) {
  return {random_normal({rows, width}, x, 1).to(Dtype::f64),
          random_normal({width}, Dtype::f32, 2).to(Dtype::f64),
          random_normal({rows, width}, dy, 3).to(Dtype::f64)};
}

// The plainest computation: f32 loops, result rounded to `dtype`.
Tensor plain_forward(const Case& c, Dtype dtype) {
  const Tensor x = c.x.to(Dtype::f32);
  const Tensor weight = c.weight.to(Dtype::f32);
  Tensor y = Tensor::empty(x.shape(), Dtype::f32);
  for (int64_t row = 0; row < x.rows(); ++row) {
    reference::rms_norm_vector(y.data<float>() + row * x.width(), x.data<float>() + row * x.width(),
                               weight.data<float>(), x.width(), kEps);
  }
  return y.to(dtype);
}

struct Gradients {
  Tensor dx, dweight;
};

Gradients plain_backward(const Case& c, const Tensor& dx_before, Dtype dtype) {
  const Tensor x = c.x.to(Dtype::f32);
  const Tensor weight = c.weight.to(Dtype::f32);
  const Tensor dy = c.dy.to(Dtype::f32);
  const int64_t width = x.width();
  Tensor y = Tensor::empty(x.shape(), Dtype::f32);
  Gradients out{
      dx_before.defined() ? dx_before.to(Dtype::f32) : Tensor::zeros(x.shape(), Dtype::f32),
      Tensor::zeros(weight.shape(), Dtype::f32)};
  for (int64_t row = 0; row < x.rows(); ++row) {
    const float rstd =
        reference::rms_norm_vector(y.data<float>() + row * width, x.data<float>() + row * width,
                                   weight.data<float>(), width, kEps);
    reference::rms_norm_vector_backward(out.dx.data<float>() + row * width,
                                        out.dweight.data<float>(), dy.data<float>() + row * width,
                                        x.data<float>() + row * width, weight.data<float>(), rstd,
                                        width, dx_before.defined());
  }
  out.dx = out.dx.to(dtype);
  return out;
}

Gradients backward(const Case& c, const Tensor& dx_before, Dtype x, Dtype dy, Dtype dx) {
  const Dtype parameter = accumulator_of(x);
  const Tensor weight = c.weight.to(parameter);
  const ops::RmsNormOut out = ops::rms_norm(c.x.to(x), weight, kEps, dy);
  Gradients result{dx_before.defined() ? dx_before.to(dx) : Tensor(),
                   Tensor::zeros(weight.shape(), parameter)};
  ops::rms_norm_backward(result.dx, result.dweight, c.dy.to(dy), c.x.to(x), weight, out.rstd, dx);
  return result;
}

TEST(RmsNorm, GradientsMatchComplexStep) {
  const Case c = make_case(3, 7, Dtype::f64, Dtype::f64);
  const Gradients g = backward(c, {}, Dtype::f64, Dtype::f64, Dtype::f64);
  std::vector<testing::Complex> x = testing::complex_of(c.x);
  std::vector<testing::Complex> weight = testing::complex_of(c.weight);
  std::vector<testing::Complex> y(x.size());
  const auto loss = [&] {
    for (int64_t row = 0; row < c.x.rows(); ++row) {
      const int64_t first = row * c.x.width();
      reference::rms_norm_vector(y.data() + first, x.data() + first, weight.data(), c.x.width(),
                                 kEps);
    }
    return testing::dot(y, c.dy);
  };
  testing::expect_complex_step(g.dx, x, loss, 1e-13, "dx");
  testing::expect_complex_step(g.dweight, weight, loss, 1e-13, "dweight");
}

TEST(RmsNorm, ForwardIsAsGoodAsThePlainestComputation) {
  testing::for_each_isa([] {
    for (const int64_t width : {1, 3, 15, 16, 17, 63, 64, 65, 127, 384}) {
      for (const int64_t rows : {1, 2, 37}) {
        for (const Dtype in : {Dtype::f32, Dtype::bf16}) {
          for (const Dtype out : {Dtype::f32, Dtype::bf16}) {
            const Case c = make_case(rows, width, in, out);
            const Tensor exact = ops::rms_norm(c.x, c.weight, kEps, Dtype::f64).y;
            const Tensor y = ops::rms_norm(c.x.to(in), c.weight.to(Dtype::f32), kEps, out).y;
            EXPECT_EQ(y.dtype(), out);
            EXPECT_LE(relative_error(y, exact),
                      2 * relative_error(plain_forward(c, out), exact) + 1e-7)
                << rows << " x " << width;
          }
        }
      }
    }
  });
}

TEST(RmsNorm, BackwardIsAsGoodAsThePlainestComputation) {
  // Not width 1: dx is then nothing but rounding errors.
  for (const int64_t width : {3, 15, 17, 64, 127}) {
    for (const int64_t rows : {1, 37, 1100}) {
      for (const Dtype x : {Dtype::f32, Dtype::bf16}) {
        for (const Dtype dy : {Dtype::f32, Dtype::bf16}) {
          const Case c = make_case(rows, width, x, dy);
          for (const Dtype dx : {Dtype::f32, Dtype::bf16}) {
            for (const bool accumulate : {false, true}) {
              const Tensor before =
                  accumulate ? random_normal(c.x.shape(), dx, 4).to(Dtype::f64) : Tensor();
              const Gradients exact = backward(c, before, Dtype::f64, Dtype::f64, Dtype::f64);
              const Gradients plain = plain_backward(c, before, dx);
              testing::for_each_isa([&] {
                const Gradients g = backward(c, before, x, dy, dx);
                EXPECT_EQ(g.dx.dtype(), dx);
                EXPECT_LE(relative_error(g.dx, exact.dx),
                          2 * relative_error(plain.dx, exact.dx) + 1e-6)
                    << rows << " x " << width;
                EXPECT_LE(relative_error(g.dweight, exact.dweight),
                          2 * relative_error(plain.dweight, exact.dweight) + 2e-6)
                    << rows << " x " << width;
              });
            }
          }
        }
      }
    }
  }
}

TEST(RmsNorm, HeadsOfAWideRowAreNormalisedByThemselves) {
  constexpr int64_t kTokens = 19, kHeads = 3, kWidth = 24;
  const Tensor qkv = random_normal({kTokens, 3 * kHeads * kWidth}, Dtype::bf16, 5);
  const Tensor weight = random_normal({kWidth}, Dtype::f32, 6);
  const Tensor view =
      qkv.columns(kHeads * kWidth, 2 * kHeads * kWidth).reshape({kTokens, kHeads, kWidth});
  const Tensor dense = view.clone().reshape({kTokens * kHeads, kWidth});
  const ops::RmsNormOut from_view = ops::rms_norm(view, weight, kEps, Dtype::bf16);
  const ops::RmsNormOut from_dense = ops::rms_norm(dense, weight, kEps, Dtype::bf16);
  EXPECT_EQ(from_view.y.shape(), view.shape());
  EXPECT_TRUE(same_bits(from_view.y.reshape(dense.shape()), from_dense.y));
  EXPECT_TRUE(same_bits(from_view.rstd, from_dense.rstd));

  const Tensor dy_wide = random_normal({kTokens, 2 * kHeads * kWidth}, Dtype::bf16, 7);
  const Tensor dy = dy_wide.columns(0, kHeads * kWidth).reshape(view.shape());
  Tensor dx_wide = random_normal({kTokens, 2 * kHeads * kWidth}, Dtype::bf16, 8);
  const Tensor untouched = dx_wide.columns(0, kHeads * kWidth).clone();
  Tensor dx_view = dx_wide.columns(kHeads * kWidth, 2 * kHeads * kWidth).reshape(view.shape());
  Tensor dx_dense = dx_view.clone().reshape(dense.shape());
  Tensor dweight_view = Tensor::zeros({kWidth}, Dtype::f32);
  Tensor dweight_dense = Tensor::zeros({kWidth}, Dtype::f32);
  ops::rms_norm_backward(dx_view, dweight_view, dy, view, weight, from_view.rstd, Dtype::bf16);
  ops::rms_norm_backward(dx_dense, dweight_dense, dy.clone().reshape(dense.shape()), dense, weight,
                         from_dense.rstd, Dtype::bf16);
  EXPECT_TRUE(same_bits(dx_view.clone().reshape(dense.shape()), dx_dense));
  EXPECT_LT(relative_error(dweight_view, dweight_dense), 1e-6);
  EXPECT_TRUE(same_bits(dx_wide.columns(0, kHeads * kWidth), untouched));
}

TEST(RmsNorm, BackwardInPlaceLeavesTheResultWhereItsGradientWas) {
  testing::for_each_isa([] {
    for (const Dtype in : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
      for (const Dtype out : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
        if ((in == Dtype::f64) != (out == Dtype::f64)) continue;
        const Tensor x = random_normal({37, 2, 24}, in, 1);
        const Tensor weight = random_normal({24}, accumulator_of(in), 2);
        const Tensor dy = random_normal({37, 2, 24}, out, 3);
        const auto [y, rstd] = ops::rms_norm(x, weight, kEps, out);
        Tensor dx = random_normal({37, 2, 24}, in, 4);
        Tensor dx_in_place = dx.clone();
        Tensor dweight = random_normal({24}, accumulator_of(in), 5);
        Tensor dweight_in_place = dweight.clone();
        Tensor again = dy.clone();
        ops::rms_norm_backward(dx, dweight, dy, x, weight, rstd, in);
        ops::rms_norm_backward_in_place(dx_in_place, dweight_in_place, again, x, weight, rstd, in);
        EXPECT_TRUE(same_bits(again, y));
        EXPECT_TRUE(same_bits(dx_in_place, dx));
        EXPECT_TRUE(same_bits(dweight_in_place, dweight));
      }
    }
  });
}

TEST(RmsNorm, AnyNumberOfThreadsGivesTheSameBits) {
  const Case c = make_case(2500, 96, Dtype::f32, Dtype::bf16);
  Gradients first;
  Tensor first_y;
  testing::for_each_pool_size([&](int size) {
    const Tensor y =
        ops::rms_norm(c.x.to(Dtype::f32), c.weight.to(Dtype::f32), kEps, Dtype::bf16).y;
    const Gradients g = backward(c, c.dy, Dtype::f32, Dtype::bf16, Dtype::f32);
    if (size == 1) {
      first = g;
      first_y = y;
    }
    EXPECT_TRUE(same_bits(y, first_y));
    EXPECT_TRUE(same_bits(g.dx, first.dx));
    EXPECT_TRUE(same_bits(g.dweight, first.dweight));
  });
}

TEST(RmsNorm, AddsToTheWeightGradient) {
  const Case c = make_case(5, 8, Dtype::f32, Dtype::f32);
  const Tensor weight = c.weight.to(Dtype::f32);
  const ops::RmsNormOut out = ops::rms_norm(c.x.to(Dtype::f32), weight, kEps, Dtype::f32);
  Tensor once = Tensor::zeros({8}, Dtype::f32);
  Tensor twice = Tensor::zeros({8}, Dtype::f32);
  for (int i = 0; i < 3; ++i) {
    Tensor dx;
    ops::rms_norm_backward(dx, i == 0 ? once : twice, c.dy.to(Dtype::f32), c.x.to(Dtype::f32),
                           weight, out.rstd, Dtype::f32);
  }
  for (int64_t i = 0; i < 8; ++i) EXPECT_NEAR(twice.at(i), 2 * once.at(i), 1e-5);
}

TEST(RmsNorm, AcceptsNoTokens) {
  const Tensor weight = random_normal({8}, Dtype::f32, 1);
  const Tensor x = Tensor::empty({0, 8}, Dtype::f32);
  const ops::RmsNormOut out = ops::rms_norm(x, weight, kEps, Dtype::bf16);
  EXPECT_EQ(out.y.shape(), Shape({0, 8}));
  Tensor dx;
  Tensor dweight = Tensor::zeros({8}, Dtype::f32);
  ops::rms_norm_backward(dx, dweight, out.y, x, weight, out.rstd, Dtype::f32);
  EXPECT_EQ(dx.shape(), Shape({0, 8}));
}

TEST(RmsNorm, RefusesAWeightOfAnotherWidth) {
  const Tensor x = random_normal({2, 768}, Dtype::f32, 1);
  const Tensor weight = random_normal({512}, Dtype::f32, 2);
  try {
    ops::rms_norm(x, weight, kEps, Dtype::f32);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    EXPECT_STREQ(error.what(),
                 "rms_norm: weight has 512 elements but x is 768 wide; they must "
                 "match, see model.width");
  }
}

TEST(RmsNorm, RefusesToMixDoubleWithOtherTypes) {
  const Tensor x = random_normal({2, 4}, Dtype::f64, 1);
  const Tensor weight = random_normal({4}, Dtype::f64, 2);
  EXPECT_THROW(ops::rms_norm(x, weight, kEps, Dtype::f32), Error);
  EXPECT_THROW(ops::rms_norm(x, weight.to(Dtype::f32), kEps, Dtype::f64), Error);
}

}  // namespace
}  // namespace sidewinder
