#include "kernels/ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/reference/matmul.h"
#include "tests/support/message_of.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::for_each_isa;
using testing::message_of;
using testing::product_levels;
using testing::random_normal;
using testing::relative_error;
using testing::same_bits;

// A view with a wider row stride, as columns of a larger matrix are.
Tensor strided(const Tensor& dense) {
  Tensor wide = Tensor::zeros({dense.size(0), dense.size(1) + 5}, dense.dtype());
  Tensor view = wide.columns(3, 3 + dense.size(1));
  view.copy_from(dense);
  return view;
}

// The plainest computation of `compute`: operands rounded to it, one f32 sum in order.
Tensor plain_product(const Tensor& x, const Tensor& w, Dtype compute, Dtype result) {
  const Tensor a = x.to(compute).to(Dtype::f32);
  const Tensor b = w.to(compute).to(Dtype::f32);
  Tensor y = Tensor::empty({a.size(0), b.size(0)}, Dtype::f32);
  for (int64_t t = 0; t < a.size(0); ++t) {
    for (int64_t m = 0; m < b.size(0); ++m) {
      float sum = 0;
      for (int64_t k = 0; k < a.size(1); ++k) {
        sum += a.data<float>()[t * a.size(1) + k] * b.data<float>()[m * b.size(1) + k];
      }
      y.data<float>()[t * b.size(0) + m] = sum;
    }
  }
  return y.to(result);
}

Tensor exact_product(const Tensor& x, const Tensor& w) {
  Tensor y = Tensor::empty({x.size(0), w.size(0)}, Dtype::f64);
  const Tensor none;
  reference::linear(y, x.to(Dtype::f64), w.to(Dtype::f64), none, none);
  return y;
}

struct Case {
  int64_t tokens, in, out;
};
// Around the tiles (rows 4, 6, 14 and 84; columns 8, 16, 32) and around a contraction block.
const Case kCases[] = {{1, 1, 1},      {1, 7, 33},     {3, 2, 8},    {4, 17, 7},     {5, 16, 9},
                       {6, 31, 15},    {13, 32, 16},   {14, 33, 17}, {15, 48, 31},   {28, 64, 32},
                       {83, 40, 48},   {84, 129, 49},  {85, 96, 80}, {97, 101, 103}, {170, 67, 130},
                       {29, 2049, 37}, {20, 1030, 65}, {9, 4099, 21}};
const Dtype kComputes[] = {Dtype::f32, Dtype::bf16};
const Dtype kStored[] = {Dtype::f32, Dtype::bf16};

std::string name_of_case(const Case& c, Dtype compute, Dtype operand, Dtype result) {
  return fmt::format("T {} in {} out {} compute {} x {} y {}", c.tokens, c.in, c.out,
                     name_of(compute), name_of(operand), name_of(result));
}

// Rounding of stored operands is not the kernel's error, so x and w are exact in their types.
TEST(Matmul, ForwardIsAsExactAsPlainLoops) {
  for (const Case& c : kCases) {
    for (const Dtype compute : kComputes) {
      for (const Dtype operand : kStored) {
        const Tensor x = strided(random_normal({c.tokens, c.in}, operand, 1));
        const Tensor w = random_normal({c.out, c.in}, Dtype::f32, 2);
        const Tensor exact = exact_product(x, w);
        const Tensor plain = plain_product(x, w, compute, Dtype::f32);
        for (const Dtype result : kStored) {
          SCOPED_TRACE(name_of_case(c, compute, operand, result));
          const double limit = 2 * relative_error(plain.to(result), exact) + 1e-7;
          for_each_isa(product_levels(), [&] {
            const PackedWeight packed = ops::pack_weight(w, WeightUse::forward, compute);
            const Tensor y = ops::linear(x, packed, result);
            EXPECT_EQ(y.dtype(), result);
            EXPECT_LE(relative_error(y, exact), limit);
          });
        }
      }
    }
  }
}

TEST(Matmul, BackwardMultipliesByTheWeightItself) {
  for (const Case& c : kCases) {
    for (const Dtype compute : kComputes) {
      for (const Dtype stored : kStored) {
        SCOPED_TRACE(name_of_case(c, compute, stored, Dtype::f32));
        const Tensor dy = strided(random_normal({c.tokens, c.in}, Dtype::bf16, 3));
        const Tensor w = strided(random_normal({c.in, c.out}, stored, 4));
        const Tensor transposed = reference::transpose(w.to(Dtype::f64));
        const Tensor exact = exact_product(dy, transposed);
        const double plain =
            relative_error(plain_product(dy, transposed, compute, Dtype::f32), exact);
        for_each_isa(product_levels(), [&] {
          const PackedWeight packed = ops::pack_weight(w, WeightUse::backward, compute);
          ASSERT_EQ(packed.in, c.in);
          ASSERT_EQ(packed.out, c.out);
          EXPECT_LE(relative_error(ops::linear(dy, packed, Dtype::f32), exact), 2 * plain + 1e-7);
        });
      }
    }
  }
}

TEST(Matmul, BiasResidualAndAccumulationAreAddedBeforeRounding) {
  for_each_isa(product_levels(), [] {
    for (const Case& c : kCases) {
      for (const Dtype result : kStored) {
        SCOPED_TRACE(name_of_case(c, Dtype::f32, Dtype::f32, result));
        const Tensor x = random_normal({c.tokens, c.in}, Dtype::f32, 5);
        const Tensor w = random_normal({c.out, c.in}, Dtype::f32, 6);
        const Tensor bias = random_normal({c.out}, Dtype::f32, 7);
        const Tensor residual = strided(random_normal({c.tokens, c.out}, result, 8));
        const PackedWeight packed = ops::pack_weight(w, WeightUse::forward, Dtype::f32);
        Tensor exact = Tensor::empty({c.tokens, c.out}, Dtype::f64);
        reference::linear(exact, x.to(Dtype::f64), w.to(Dtype::f64), bias.to(Dtype::f64),
                          residual.to(Dtype::f64));
        const double rounding = result == Dtype::f32 ? 0 : relative_error(exact.to(result), exact);
        const double limit = 1e-6 * std::sqrt(static_cast<double>(c.in)) + 1.05 * rounding;
        Tensor y = ops::linear(x, packed, result, {bias, residual});
        EXPECT_LE(relative_error(y, exact), limit);

        const Tensor before = y.to(Dtype::f64);
        cpu::multiply(
            {.y = cpu::matrix_of(y), .x = cpu::matrix_of(x), .weight = packed, .accumulate = true});
        Tensor added = Tensor::empty(y.shape(), Dtype::f64);
        const Tensor none;
        reference::linear(added, x.to(Dtype::f64), w.to(Dtype::f64), none, before);
        const double added_rounding =
            result == Dtype::f32 ? 0 : relative_error(added.to(result), added);
        EXPECT_LE(relative_error(y, added),
                  1e-6 * std::sqrt(static_cast<double>(c.in)) + 1.05 * added_rounding);
      }
    }
  });
}

TEST(Matmul, WeightGradientIsAsExactAsPlainLoops) {
  for (const Case& c : kCases) {
    for (const Dtype compute : kComputes) {
      for (const Dtype stored : kStored) {
        // `in` is the contraction here: tokens.
        SCOPED_TRACE(name_of_case(c, compute, stored, Dtype::f32));
        const Tensor dy = strided(random_normal({c.in, c.tokens}, stored, 9));
        const Tensor x = strided(random_normal({c.in, c.out}, Dtype::bf16, 10));
        const Tensor before = random_normal({c.tokens, c.out}, Dtype::f32, 11);
        const Tensor dy_rows = reference::transpose(dy.to(Dtype::f64));
        const Tensor x_rows = reference::transpose(x.to(Dtype::f64));
        const Tensor exact = exact_product(dy_rows, x_rows);
        const double plain =
            relative_error(plain_product(dy_rows, x_rows, compute, Dtype::f32), exact);
        Tensor sum = before.to(Dtype::f64);
        reference::weight_gradient(sum, dy.to(Dtype::f64), x.to(Dtype::f64), true);
        for_each_isa(product_levels(), [&] {
          Tensor dweight = before.clone();
          ops::weight_gradient(dweight, dy, x, compute, true);
          EXPECT_LE(relative_error(dweight, sum), 2 * plain + 2e-7);
          ops::weight_gradient(dweight, dy, x, compute, false);
          EXPECT_LE(relative_error(dweight, exact), 2 * plain + 1e-7);
        });
      }
    }
  }
}

// More rows and columns than one work item takes, and narrow products of many rows.
TEST(Matmul, ManyItemsMakeOneProduct) {
  for (const Case& c :
       {Case{700, 40, 2100}, Case{90, 70, 1100}, Case{1, 300, 1500}, Case{900, 64, 20},
        Case{2100, 9, 33}, Case{2300, 131, 300}, Case{2300, 300, 131}, Case{2200, 128, 700}}) {
    for (const Dtype compute : kComputes) {
      SCOPED_TRACE(name_of_case(c, compute, Dtype::bf16, Dtype::bf16));
      // Exact in bf16, so that both types compute the same sums.
      const Tensor x = random_normal({c.tokens, c.in}, Dtype::bf16, 22);
      const Tensor w = random_normal({c.out, c.in}, Dtype::bf16, 23);
      const Tensor exact = exact_product(x, w);
      const Tensor y = ops::linear(x, ops::pack_weight(w, WeightUse::forward, compute), Dtype::f32);
      const double limit = 1e-6 * std::sqrt(static_cast<double>(c.in));
      EXPECT_LE(relative_error(y, exact), limit);

      const Tensor dy = random_normal({c.tokens, c.out}, Dtype::bf16, 24);
      Tensor dweight = Tensor::zeros(w.shape(), Dtype::f32);
      ops::weight_gradient(dweight, dy, x, compute);
      Tensor exact_gradient = Tensor::zeros(w.shape(), Dtype::f64);
      reference::weight_gradient(exact_gradient, dy.to(Dtype::f64), x.to(Dtype::f64), false);
      EXPECT_LE(relative_error(dweight, exact_gradient),
                1e-6 * std::sqrt(static_cast<double>(c.tokens)));
    }
  }
}

TEST(Matmul, BitsOfARowDoNotDependOnTheOtherRows) {
  constexpr int64_t kRows = 211;
  for (const int64_t in : {48, 2500}) {
    const Tensor x = random_normal({kRows, in}, Dtype::bf16, 15);
    const Tensor w = random_normal({75, in}, Dtype::f32, 16);
    for_each_isa(product_levels(), [&] {
      for (const Dtype compute : kComputes) {
        for (const Dtype result : kStored) {
          const PackedWeight packed = ops::pack_weight(w, WeightUse::forward, compute);
          const Tensor all = ops::linear(x, packed, result);
          for (const int64_t begin : {0, 1, 13, 84, 100, 210}) {
            for (const int64_t count : {1, 2, 14, 90}) {
              const int64_t end = std::min(kRows, begin + count);
              const Tensor some = ops::linear(x.slice_rows(begin, end), packed, result);
              EXPECT_TRUE(same_bits(some, all.slice_rows(begin, end)))
                  << "rows " << begin << " to " << end << " of in " << in;
            }
          }
        }
      }
    });
  }
}

// Many tokens: panels are filled while they are multiplied, but for narrow ones and those at edges.
TEST(Matmul, BitsOfAWeightGradientDoNotDependOnTheOtherWeights) {
  for (const Case& c : {Case{1031, 70, 300}, Case{1030, 300, 70}, Case{2100, 40, 610},
                        Case{600, 610, 40}, Case{513, 200, 200}, Case{511, 33, 129}}) {
    for (const Dtype compute : kComputes) {
      SCOPED_TRACE(name_of_case(c, compute, compute, Dtype::f32));
      const Tensor x = strided(random_normal({c.tokens, c.in}, compute, 25));
      const Tensor dy = strided(random_normal({c.tokens, c.out}, compute, 26));
      Tensor exact = Tensor::zeros({c.out, c.in}, Dtype::f64);
      reference::weight_gradient(exact, dy.to(Dtype::f64), x.to(Dtype::f64), false);
      for_each_isa(product_levels(), [&] {
        Tensor whole = Tensor::zeros({c.out, c.in}, Dtype::f32);
        ops::weight_gradient(whole, dy, x, compute);
        EXPECT_LE(relative_error(whole, exact), 1e-6 * std::sqrt(static_cast<double>(c.tokens)));
        constexpr int64_t kNarrow = 3;
        for (const int64_t first : {int64_t{0}, int64_t{1}, c.out / 2, c.out - kNarrow}) {
          Tensor part = Tensor::zeros({kNarrow, c.in}, Dtype::f32);
          ops::weight_gradient(part, dy.columns(first, first + kNarrow), x, compute);
          EXPECT_TRUE(same_bits(part, whole.slice_rows(first, first + kNarrow))) << first;
        }
        for (const int64_t first : {int64_t{0}, int64_t{1}, c.in / 2, c.in - kNarrow}) {
          Tensor part = Tensor::zeros({c.out, kNarrow}, Dtype::f32);
          ops::weight_gradient(part, dy, x.columns(first, first + kNarrow), compute);
          EXPECT_TRUE(same_bits(part, whole.columns(first, first + kNarrow).clone())) << first;
        }
      });
    }
  }
}

TEST(Matmul, F64IsTheReference) {
  const Tensor x = random_normal({5, 7}, Dtype::f64, 17);
  const Tensor w = random_normal({3, 7}, Dtype::f64, 18);
  const Tensor y = ops::linear(x, ops::pack_weight(w, WeightUse::forward, Dtype::f64), Dtype::f64);
  const Tensor dx =
      ops::linear(y, ops::pack_weight(w, WeightUse::backward, Dtype::f64), Dtype::f64);
  Tensor dweight = Tensor::zeros({3, 7}, Dtype::f64);
  ops::weight_gradient(dweight, y, x, Dtype::f64);
  for (int64_t t = 0; t < 5; ++t) {
    for (int64_t m = 0; m < 3; ++m) {
      double sum = 0;
      for (int64_t k = 0; k < 7; ++k) sum += x.at(t * 7 + k) * w.at(m * 7 + k);
      EXPECT_NEAR(y.at(t * 3 + m), sum, 1e-14);
    }
    for (int64_t k = 0; k < 7; ++k) {
      double sum = 0;
      for (int64_t m = 0; m < 3; ++m) sum += y.at(t * 3 + m) * w.at(m * 7 + k);
      EXPECT_NEAR(dx.at(t * 7 + k), sum, 1e-13);
    }
  }
  double sum = 0;
  for (int64_t t = 0; t < 5; ++t) sum += y.at(t * 3 + 2) * x.at(t * 7 + 6);
  EXPECT_NEAR(dweight.at(2 * 7 + 6), sum, 1e-13);
}

TEST(Matmul, NoTokensGiveNothing) {
  const Tensor w = random_normal({3, 7}, Dtype::f32, 19);
  const PackedWeight packed = ops::pack_weight(w, WeightUse::forward, Dtype::f32);
  const Tensor x = Tensor::empty({0, 7}, Dtype::f32);
  EXPECT_EQ(ops::linear(x, packed, Dtype::f32).count(), 0);
  Tensor dweight = random_normal({3, 7}, Dtype::f32, 20);
  ops::weight_gradient(dweight, Tensor::empty({0, 3}, Dtype::f32), x, Dtype::f32, false);
  for (const double value : dweight.values()) EXPECT_EQ(value, 0);
}

TEST(Matmul, WrongShapesAndTypesAreNamed) {
  const Tensor w = random_normal({3, 7}, Dtype::f32, 21);
  const PackedWeight packed = ops::pack_weight(w, WeightUse::forward, Dtype::f32);
  EXPECT_EQ(message_of([&] {
              ops::linear(Tensor::zeros({2, 6}, Dtype::f32), packed, Dtype::f32);
            }),
            "linear: x is [2, 6] but the weight takes 7 columns; x must be [T, 7]");
  EXPECT_EQ(message_of([&] {
              ops::linear(Tensor::zeros({2, 7}, Dtype::f64), packed, Dtype::f32);
            }),
            "linear: x is f64 but the product is formed in f32; f64 goes with f64 only, f32 and "
            "bf16 with each other");
  EXPECT_EQ(message_of([&] {
              Tensor dweight = Tensor::zeros({3, 6}, Dtype::f32);
              ops::weight_gradient(dweight, Tensor::zeros({2, 3}, Dtype::f32),
                                   Tensor::zeros({2, 7}, Dtype::f32), Dtype::bf16);
            }),
            "weight_gradient: dweight is f32 [3, 6] but must be f32 of [3, 7]");
  EXPECT_EQ(message_of([&] { ops::linear(w, PackedWeight{}, Dtype::f32); }),
            "linear: the weight has not been packed; call pack_weight");
}

}  // namespace
}  // namespace sidewinder
