#include "model/autograd/tape.h"

#include <gtest/gtest.h>

#include "kernels/tensor/allocator.h"
#include "model/autograd/functions.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

int64_t bytes_in_use() { return allocator_of({}).statistics().bytes_in_use; }

enum class Middle : uint8_t { kept, made_again };

// y = W₂ · (W₁ · x), where two functions keep the middle.
struct TwoProducts {
  Tensor x = testing::random_normal({64, 48}, Dtype::f32, 1);
  Tensor first = testing::random_normal({40, 48}, Dtype::f32, 2);
  Tensor second = testing::random_normal({24, 40}, Dtype::f32, 3);
  int made = 0;
  int64_t freed = 0;

  Var run(const Var& x_var, const Var& first_var, const Var& second_var, Middle middle) {
    const Var between = linear(x_var, first_var);
    Var y = linear_add(between, second_var, linear(between, second_var));
    if (middle == Middle::made_again) {
      const int64_t before = bytes_in_use();
      Tape::make_again(between, [this] {
        ++made;
        return linear(Var(x), Var(first)).value();
      });
      freed = before - bytes_in_use();
    }
    return y;
  }

  // Gradients of x and both weights.
  std::vector<Tensor> gradients(Middle middle) {
    Tape tape;
    const std::vector<Var> leaves = {tape.leaf(x), tape.leaf(first), tape.leaf(second)};
    const Var y = run(leaves[0], leaves[1], leaves[2], middle);
    tape.backward(std::span<const Var>(&y, 1), {testing::random_normal({64, 24}, Dtype::f32, 4)});
    std::vector<Tensor> result;
    result.reserve(leaves.size());
    for (const Var& leaf : leaves) result.push_back(tape.gradient(leaf));
    return result;
  }
};

TEST(Tape, WhatIsMadeAgainTakesNoMemoryMeanwhileAndHasTheSameGradients) {
  // Another thread might take its work space in the second run only.
  const testing::OneThread one_thread;
  TwoProducts products;
  const std::vector<Tensor> kept = products.gradients(Middle::kept);
  const int64_t before = bytes_in_use();
  const std::vector<Tensor> again = products.gradients(Middle::made_again);
  for (size_t i = 0; i < kept.size(); ++i) {
    EXPECT_TRUE(testing::same_bits(again[i], kept[i])) << "input " << i;
  }
  EXPECT_EQ(products.made, 1);
  EXPECT_EQ(products.freed, 64 * 40 * 4);
  int64_t gradient_bytes = 0;
  for (const Tensor& gradient : again) gradient_bytes += static_cast<int64_t>(gradient.bytes());
  EXPECT_EQ(bytes_in_use() - before, gradient_bytes);
}

TEST(Tape, RecomputedBlocksKeepWhatIsMadeAgainElsewhere) {
  TwoProducts products;
  Tape tape;
  const Var x = tape.leaf(products.x);
  const Var y = recompute(
      x,
      [&](Tape* inner, const Var& input) {
        const auto leaf = [&](const Tensor& value) {
          return inner != nullptr ? inner->leaf(value) : Var(value);
        };
        return products.run(input, leaf(products.first), leaf(products.second), Middle::made_again);
      },
      &tape);
  tape.backward(std::span<const Var>(&y, 1), {testing::random_normal({64, 24}, Dtype::f32, 4)});
  EXPECT_EQ(products.made, 0);
  EXPECT_EQ(products.freed, 0);
  EXPECT_TRUE(testing::same_bits(tape.gradient(x), products.gradients(Middle::kept)[0]));
}

TEST(Tape, NothingIsMadeAgainInInference) {
  TwoProducts products;
  products.run(Var(products.x), Var(products.first), Var(products.second), Middle::made_again);
  EXPECT_EQ(products.freed, 0);
}

}  // namespace
}  // namespace sidewinder
