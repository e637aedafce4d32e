// Products of bf16 matrices on tile registers, or on the model of them where the CPU has none.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/amx_check.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa/gemm.h"
#include "kernels/ops/matmul.h"
#include "kernels/reference/matmul.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

#if defined(__x86_64__)

#define SIDEWINDER_AMX_MODEL
#define SIDEWINDER_ISA isa_tiles_test
#include "kernels/cpu/isa/amx.h"

namespace sidewinder {
namespace {

using testing::for_each_isa;
using testing::random_normal;
using testing::same_bits;
using testing::tile_levels;

const Dtype kStored[] = {Dtype::f32, Dtype::bf16};

class Tiles : public ::testing::Test {
 protected:
  void SetUp() override {
    if (tile_levels().empty()) GTEST_SKIP() << "this CPU has no AVX512-BF16, which the model needs";
  }
};

// Small whole numbers, whose products and their sums f32 holds exactly in any order.
Tensor whole_numbers(const Shape& shape, Dtype dtype, uint64_t seed) {
  std::vector<float> values;
  for (const double value : random_normal(shape, Dtype::f32, seed, 3.0).values()) {
    values.push_back(static_cast<float>(std::round(value)) + 0.0F);  // no −0
  }
  return Tensor::from(shape, values).to(dtype);
}

// x · wᵀ (+ bias) (+ residual)
Tensor exact_product(const Tensor& x, const Tensor& w, const Tensor& bias = {},
                     const Tensor& residual = {}) {
  Tensor y = Tensor::empty({x.size(0), w.size(0)}, Dtype::f64);
  reference::linear(y, x.to(Dtype::f64), w.to(Dtype::f64),
                    bias.defined() ? bias.to(Dtype::f64) : bias,
                    residual.defined() ? residual.to(Dtype::f64) : residual);
  return y;
}

struct Case {
  int64_t tokens, in, out;
};

// Both operands' gradients and the product itself.
void expect_exact_products(const Case& c, Dtype stored) {
  SCOPED_TRACE(fmt::format("T {} in {} out {} of {}", c.tokens, c.in, c.out, name_of(stored)));
  const Tensor x = whole_numbers({c.tokens, c.in}, stored, 1);
  const Tensor w = whole_numbers({c.out, c.in}, stored, 2);
  const Tensor dy = whole_numbers({c.tokens, c.out}, stored, 3);
  const Tensor y = exact_product(x, w).to(Dtype::f32);
  const Tensor dx = exact_product(dy, reference::transpose(w.to(Dtype::f64))).to(Dtype::f32);
  const Tensor dweight =
      exact_product(reference::transpose(dy.to(Dtype::f64)), reference::transpose(x.to(Dtype::f64)))
          .to(Dtype::f32);
  for_each_isa(tile_levels(), [&] {
    const PackedWeight forward = ops::pack_weight(w, WeightUse::forward, Dtype::bf16);
    const PackedWeight backward = ops::pack_weight(w, WeightUse::backward, Dtype::bf16);
    EXPECT_TRUE(same_bits(ops::linear(x, forward, Dtype::f32), y));
    EXPECT_TRUE(same_bits(ops::linear(x, forward, Dtype::bf16), y.to(Dtype::bf16)));
    EXPECT_TRUE(same_bits(ops::linear(dy, backward, Dtype::f32), dx));
    Tensor actual = Tensor::empty({c.out, c.in}, Dtype::f32);
    ops::weight_gradient(actual, dy, x, Dtype::bf16, false);
    EXPECT_TRUE(same_bits(actual, dweight));
  });
}

TEST_F(Tiles, ProductsOfEveryRaggedShapeAreExact) {
  const int64_t sides[] = {1, 15, 16, 17, 31, 32, 33, 97};
  for (const int64_t tokens : sides) {
    for (const int64_t in : {1, 2, 15, 31, 32, 33, 64, 65, 101}) {
      for (const int64_t out : sides) {
        for (const Dtype stored : kStored) expect_exact_products({tokens, in, out}, stored);
      }
    }
  }
}

// Many items, several blocks of the contraction and of tokens, products that are transposed.
TEST_F(Tiles, LargeProductsAreExact) {
  for (const Case& c :
       {Case{700, 40, 2100}, Case{1, 3100, 1500}, Case{20, 4099, 65}, Case{2100, 9, 33},
        Case{2300, 131, 300}, Case{2300, 300, 131}, Case{4200, 610, 40}}) {
    for (const Dtype stored : kStored) expect_exact_products(c, stored);
  }
}

TEST_F(Tiles, BiasResidualAndEarlierSumsAreAdded) {
  for (const Case& c : {Case{1, 1, 1}, Case{33, 65, 47}, Case{97, 2100, 33}}) {
    for (const Dtype stored : kStored) {
      SCOPED_TRACE(fmt::format("T {} in {} out {} of {}", c.tokens, c.in, c.out, name_of(stored)));
      const Tensor x = whole_numbers({c.tokens, c.in}, stored, 4);
      const Tensor w = whole_numbers({c.out, c.in}, Dtype::f32, 5);
      const Tensor bias = whole_numbers({c.out}, Dtype::f32, 6);
      const Tensor residual = whole_numbers({c.tokens, c.out}, stored, 7);
      const Tensor dy = whole_numbers({c.tokens, c.out}, stored, 8);
      const Tensor once = exact_product(x, w, bias, residual).to(stored);
      const Tensor twice = exact_product(x, w, {}, once).to(stored);
      const Tensor before = whole_numbers({c.out, c.in}, Dtype::f32, 9);
      const Tensor dweight = exact_product(reference::transpose(dy.to(Dtype::f64)),
                                           reference::transpose(x.to(Dtype::f64)), {}, before)
                                 .to(Dtype::f32);
      for_each_isa(tile_levels(), [&] {
        const PackedWeight packed = ops::pack_weight(w, WeightUse::forward, Dtype::bf16);
        Tensor y = ops::linear(x, packed, stored, {bias, residual});
        EXPECT_TRUE(same_bits(y, once));
        cpu::multiply(
            {.y = cpu::matrix_of(y), .x = cpu::matrix_of(x), .weight = packed, .accumulate = true});
        EXPECT_TRUE(same_bits(y, twice));
        Tensor sum = before.clone();
        ops::weight_gradient(sum, dy, x, Dtype::bf16, true);
        EXPECT_TRUE(same_bits(sum, dweight));
      });
    }
  }
}

// NaN or infinity in one element of x or of w spoils that row (column) of the product, and no
// other.
TEST_F(Tiles, WhatIsNoNumberStaysInItsRowAndColumn) {
  constexpr int64_t kTokens = 45;
  constexpr int64_t kIn = 77;
  constexpr int64_t kOut = 51;
  const Tensor x = whole_numbers({kTokens, kIn}, Dtype::bf16, 10);
  const Tensor w = whole_numbers({kOut, kIn}, Dtype::f32, 11);
  const Tensor dy = whole_numbers({kTokens, kOut}, Dtype::bf16, 12);
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const int64_t row : {int64_t{0}, int64_t{15}, int64_t{31}, int64_t{44}}) {
      for (const int64_t k : {int64_t{0}, int64_t{33}, kIn - 1}) {
        Tensor spoilt_x = x.to(Dtype::f32);
        spoilt_x.data<float>()[row * kIn + k] = value;
        Tensor spoilt_w = w.clone();
        spoilt_w.data<float>()[row * kIn + k] = value;
        for_each_isa(tile_levels(), [&] {
          const PackedWeight packed = ops::pack_weight(w, WeightUse::forward, Dtype::bf16);
          const PackedWeight spoilt_packed =
              ops::pack_weight(spoilt_w, WeightUse::forward, Dtype::bf16);
          const Tensor y = ops::linear(x, packed, Dtype::f32);
          const Tensor of_x = ops::linear(spoilt_x, packed, Dtype::f32);
          const Tensor of_w = ops::linear(x, spoilt_packed, Dtype::f32);
          Tensor dweight = Tensor::empty({kOut, kIn}, Dtype::f32);
          ops::weight_gradient(dweight, dy, x, Dtype::bf16, false);
          Tensor of_gradient = Tensor::empty({kOut, kIn}, Dtype::f32);
          ops::weight_gradient(of_gradient, dy, spoilt_x, Dtype::bf16, false);
          for (int64_t t = 0; t < kTokens; ++t) {
            for (int64_t m = 0; m < kOut; ++m) {
              const int64_t i = t * kOut + m;
              EXPECT_TRUE(t == row ? !std::isfinite(of_x.at(i)) : of_x.at(i) == y.at(i));
              EXPECT_TRUE(m == row ? !std::isfinite(of_w.at(i)) : of_w.at(i) == y.at(i));
            }
          }
          for (int64_t m = 0; m < kOut; ++m) {
            for (int64_t j = 0; j < kIn; ++j) {
              const int64_t i = m * kIn + j;
              EXPECT_TRUE(j == k ? !std::isfinite(of_gradient.at(i))
                                 : of_gradient.at(i) == dweight.at(i));
            }
          }
        });
      }
    }
  }
}

TEST_F(Tiles, F32ProductsHaveTheBitsOfVectors) {
  const Tensor x = random_normal({190, 2500}, Dtype::f32, 13);
  const Tensor w = random_normal({75, 2500}, Dtype::f32, 14);
  const Tensor dy = random_normal({190, 75}, Dtype::f32, 15);
  std::vector<Tensor> expected;
  std::vector<Isa> levels = {Isa::avx512_bf16};
  for (const Isa isa : tile_levels()) levels.push_back(isa);
  for_each_isa(levels, [&] {
    Tensor dweight = Tensor::empty({75, 2500}, Dtype::f32);
    ops::weight_gradient(dweight, dy, x, Dtype::f32, false);
    const std::vector<Tensor> actual = {
        ops::linear(x, ops::pack_weight(w, WeightUse::forward, Dtype::f32), Dtype::f32),
        ops::linear(dy, ops::pack_weight(w, WeightUse::backward, Dtype::f32), Dtype::bf16),
        dweight};
    if (expected.empty()) expected = actual;
    for (size_t i = 0; i < actual.size(); ++i) {
      EXPECT_TRUE(same_bits(actual[i], expected[i])) << i;
    }
  });
}

TEST_F(Tiles, WeightsArePackedAsForVectors) {
  const Tensor w = random_normal({75, 99}, Dtype::f32, 16);
  Tensor expected;
  std::vector<Isa> levels = {Isa::avx512_bf16};
  for (const Isa isa : tile_levels()) levels.push_back(isa);
  for_each_isa(levels, [&] {
    const PackedWeight packed = ops::pack_weight(w, WeightUse::forward, Dtype::bf16);
    if (!expected.defined()) expected = packed.data;
    // The last panel needs half of its words.
    EXPECT_TRUE(same_bits(packed.data.slice_rows(0, 2), expected.slice_rows(0, 2)));
  });
}

TEST_F(Tiles, ATrialProductTellsRightFromWrong) {
  GemmKernels kernels = isa_amx_model::gemm_kernels;
  EXPECT_TRUE(multiplies_right(kernels));
  kernels.multiply = [](const GemmBlock& block) {
    isa_amx_model::gemm_kernels.multiply(block);
    static_cast<float*>(block.output.y)[33] += 1;
  };
  EXPECT_FALSE(multiplies_right(kernels));
  kernels.multiply = [](const GemmBlock&) {};
  EXPECT_FALSE(multiplies_right(kernels));
}

TEST(TilesModel, IsNeverChosenByItself) { EXPECT_NE(best_isa(), Isa::amx_model); }

TEST(TilesModel, ARefusalHasAReasonWhereTheCpuHasTiles) {
  for (const AmxState state : {AmxState::not_saved, AmxState::not_permitted, AmxState::wrong}) {
    EXPECT_FALSE(refusal_of(state).empty());
  }
  EXPECT_TRUE(refusal_of(AmxState::absent).empty());
  EXPECT_TRUE(refusal_of(AmxState::usable).empty());
}

// One product of tiles whose words are pairs; the elements of sums, A and B are given in f32.
class OneProduct {
 public:
  void set_a(int m, int k, float even, float odd) { a_[m][k] = pair(even, odd); }
  void set_b(int k, int n, float even, float odd) { b_[k][n] = pair(even, odd); }
  void set_sum(int m, int n, float value) { sum_[m][n] = value; }
  float sum(int m, int n) {
    constexpr int64_t kStride = 64;
    isa_tiles_test::Tiles tiles;
    tiles.load<2>(&sum_[0][0], kStride);
    tiles.load<5>(reinterpret_cast<const float*>(&a_[0][0]), kStride);
    tiles.load<7>(reinterpret_cast<const float*>(&b_[0][0]), kStride);
    tiles.multiply<2, 5, 7>();
    float result[16][16];
    tiles.store<2>(&result[0][0], kStride);
    return result[m][n];
  }

 private:
  static uint32_t pair(float even, float odd) {
    return std::bit_cast<uint32_t>(even) >> 16 | (std::bit_cast<uint32_t>(odd) & 0xffff0000U);
  }

  uint32_t a_[16][16] = {};
  uint32_t b_[16][16] = {};
  float sum_[16][16] = {};
};

TEST(TilesModel, EvenAndOddElementsAreSummedApart) {
  OneProduct product;
  product.set_sum(3, 4, 4);
  product.set_a(3, 0, 4096, 1);
  product.set_b(0, 4, 4096, 1);  // 2^24 and 1
  product.set_a(3, 9, 1, 1);
  product.set_b(9, 4, 1, 1);  // 2^24 + 1 is no f32 and rounds to even; 1 + 1
  EXPECT_EQ(product.sum(3, 4), 16777216.0F + 2 + 4);
  EXPECT_EQ(product.sum(3, 5), 0);
  EXPECT_EQ(product.sum(4, 4), 0);
}

TEST(TilesModel, SubnormalNumbersAreZeros) {
  constexpr float kSubnormal = 0x1p-130F;
  OneProduct product;
  product.set_a(0, 0, kSubnormal, 0x1p-100F);
  product.set_b(0, 0, 0x1p100F, 0x1p-30F);  // an operand, and a result below the normal numbers
  product.set_sum(0, 1, kSubnormal);
  EXPECT_EQ(product.sum(0, 0), 0);
  EXPECT_EQ(product.sum(0, 1), 0);
  product.set_a(0, 1, 0x1p-100F, 0);
  product.set_b(1, 0, 0x1p-20F, 0);
  EXPECT_EQ(product.sum(0, 0), 0x1p-120F);
}

TEST(TilesModel, AProductIsNotRoundedBeforeItIsAdded) {
  OneProduct product;
  // (1 + 2^-7)² = 1 + 2^-6 + 2^-14 is exact; −1 − 2^-6 leaves 2^-14.
  product.set_a(15, 0, 1, 0);
  product.set_b(0, 15, -1.015625F, 0);
  product.set_a(15, 1, 1.0078125F, 0);
  product.set_b(1, 15, 1.0078125F, 0);
  EXPECT_EQ(product.sum(15, 15), 0x1p-14F);
}

}  // namespace
}  // namespace sidewinder

#endif
