#include "kernels/ops/linear_cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/cpu/isa.h"
#include "kernels/reference/linear_cross_entropy.h"
#include "tests/support/complex_step.h"
#include "tests/support/golden.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::product_levels;
using testing::random_normal;
using testing::relative_error;
using testing::same_bits;

struct Result {
  double loss;
  Tensor token_loss, dx, dweight;
};

Result run(const Tensor& x, const Tensor& w, const Tensor& targets, double scale,
           const CrossEntropyOptions& options, Dtype compute, bool with_gradient = true) {
  const PackedWeight forward = ops::pack_weight(w, WeightUse::forward, compute);
  const PackedWeight backward = ops::pack_weight(w, WeightUse::backward, compute);
  Result result;
  if (with_gradient) result.dweight = Tensor::zeros(w.shape(), accumulator_of(compute));
  const ops::LinearCrossEntropyOut out =
      ops::linear_cross_entropy(x, forward, backward, targets, scale, options, result.dweight);
  result.loss = out.loss.at(0);
  result.token_loss = out.token_loss;
  result.dx = out.dx;
  return result;
}

Result run_f64(const Tensor& x, const Tensor& w, const Tensor& targets, double scale,
               const CrossEntropyOptions& options) {
  return run(x.to(Dtype::f64), w.to(Dtype::f64), targets, scale, options, Dtype::f64);
}

// Every third token ignored, the others spread over the valid ids, the last one included.
Tensor some_targets(int64_t tokens, int64_t valid) {
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < tokens; ++t) {
    targets.push_back(t % 3 == 1 ? -1 : static_cast<int32_t>((t * 7919 + valid - 1) % valid));
  }
  return Tensor::from({tokens}, targets);
}

TEST(LinearCrossEntropy, ReproducesTheGoldenValues) {
  const Tensor x = golden::tensor(0, {4, 3});
  const Tensor w = golden::tensor(1, {7, 3});
  const Tensor targets = Tensor::from<int32_t>({4}, {0, -1, 3, 2});
  const Result plain = run(x, w, targets, 1.0 / 3, {.z_loss = 0.01}, Dtype::f64);
  EXPECT_NEAR(plain.loss, 1.60621185563561, 1e-13);
  EXPECT_NEAR(golden::checksum(plain.dx), 0.661857237407, 1e-11);
  EXPECT_NEAR(golden::checksum(plain.dweight), -0.500592478349, 1e-11);
  const Result capped = run(x, w, targets, 1.0 / 3, {.z_loss = 0.01, .soft_cap = 1.5}, Dtype::f64);
  EXPECT_NEAR(capped.loss, 1.70271943566694, 1e-13);
  EXPECT_NEAR(golden::checksum(capped.dx), 0.591074006681, 1e-11);
  EXPECT_NEAR(golden::checksum(capped.dweight), -0.268386218521, 1e-11);
}

TEST(LinearCrossEntropy, GradientsMatchComplexStep) {
  const CrossEntropyOptions choices[] = {{},
                                         {.z_loss = 0.02},
                                         {.soft_cap = 1.2},
                                         {.z_loss = 0.02, .soft_cap = 1.2, .valid_vocabulary = 6}};
  const reference::CrossEntropyShape shape{5, 4, 9};
  const Tensor x = random_normal({5, 4}, Dtype::f64, 1);
  const Tensor w = random_normal({9, 4}, Dtype::f64, 2);
  const Tensor targets = some_targets(5, 6);
  std::vector<testing::Complex> xs = testing::complex_of(x);
  std::vector<testing::Complex> ws = testing::complex_of(w);
  for (const CrossEntropyOptions& options : choices) {
    const Result result = run(x, w, targets, 0.7, options, Dtype::f64);
    const auto loss = [&] {
      return reference::linear_cross_entropy(xs.data(), ws.data(), targets.data<int32_t>(), shape,
                                             0.7, options);
    };
    testing::expect_complex_step(result.dx, xs, loss, 1e-13, "dx");
    testing::expect_complex_step(result.dweight, ws, loss, 1e-13, "dweight");
  }
}

struct Case {
  int64_t tokens, width, vocabulary;
  CrossEntropyOptions options;
};
const Case kCases[] = {{1, 1, 1, {}},
                       {1, 8, 15, {}},
                       {3, 17, 16, {.z_loss = 1e-3}},
                       {14, 32, 65, {.soft_cap = 5.0}},
                       {85, 24, 131, {.z_loss = 1e-2, .soft_cap = 3.0, .valid_vocabulary = 130}},
                       {97, 33, 96, {.valid_vocabulary = 64}},
                       {200, 16, 300, {.z_loss = 1e-4, .soft_cap = 30.0}}};

TEST(LinearCrossEntropy, F32AndBf16MatchF64) {
  const Isa before = active_isa();
  for (const Isa isa : product_levels()) {
    force_isa(isa);
    for (const Case& c : kCases) {
      SCOPED_TRACE(fmt::format("{} T {} D {} V {}", name_of(isa), c.tokens, c.width, c.vocabulary));
      const int64_t valid =
          c.options.valid_vocabulary > 0 ? c.options.valid_vocabulary : c.vocabulary;
      const Tensor targets = some_targets(c.tokens, valid);
      const Tensor x = random_normal({c.tokens, c.width}, Dtype::bf16, 3);
      const Tensor w = random_normal({c.vocabulary, c.width}, Dtype::bf16, 4, 0.3);
      const double scale = 1.0 / static_cast<double>(c.tokens);
      const Result exact = run_f64(x, w, targets, scale, c.options);

      const Result f32 =
          run(x.to(Dtype::f32), w.to(Dtype::f32), targets, scale, c.options, Dtype::f32);
      EXPECT_NEAR(f32.loss, exact.loss, 1e-6 * std::abs(exact.loss) + 1e-7);
      EXPECT_LE(relative_error(f32.token_loss, exact.token_loss), 1e-6);
      EXPECT_LE(relative_error(f32.dx, exact.dx), 1e-5);
      EXPECT_LE(relative_error(f32.dweight, exact.dweight), 1e-5);

      // Operands are exact in bf16, so the loss is that of f32; gradients are rounded before their
      // products are formed, and dx once more.
      const Result bf16 = run(x, w, targets, scale, c.options, Dtype::bf16);
      EXPECT_NEAR(bf16.loss, exact.loss, 1e-6 * std::abs(exact.loss) + 1e-7);
      EXPECT_LE(relative_error(bf16.dx, exact.dx), 5e-3);
      EXPECT_LE(relative_error(bf16.dweight, exact.dweight), 5e-3);
    }
  }
  force_isa(before);
}

TEST(LinearCrossEntropy, ChunksOfTokensMakeNoDifference) {
  // A vocabulary this wide is taken in chunks of 252 tokens.
  constexpr int64_t kVocabulary = 199999;
  const Tensor x = random_normal({513, 2}, Dtype::f32, 5);
  const Tensor w = random_normal({kVocabulary, 2}, Dtype::f32, 6);
  const Tensor targets = some_targets(513, kVocabulary);
  const Result whole = run(x, w, targets, 1.0, {}, Dtype::f32);
  double loss = 0;
  Tensor dweight = Tensor::zeros(w.shape(), Dtype::f32);
  for (int64_t t = 0; t < 513; t += 171) {
    const Tensor part_targets = targets.slice_rows(t, t + 171);
    const Result part = run(x.slice_rows(t, t + 171), w, part_targets, 1.0, {}, Dtype::f32);
    loss += part.loss;
    EXPECT_TRUE(same_bits(part.token_loss, whole.token_loss.slice_rows(t, t + 171)));
    EXPECT_TRUE(same_bits(part.dx, whole.dx.slice_rows(t, t + 171)));
    for (int64_t i = 0; i < dweight.count(); ++i)
      dweight.data<float>()[i] += part.dweight.data<float>()[i];
  }
  EXPECT_NEAR(loss, whole.loss, 1e-9 * whole.loss);
  EXPECT_LE(relative_error(dweight, whole.dweight), 1e-6);
}

TEST(LinearCrossEntropy, AllIgnoredIsZero) {
  const Tensor targets = Tensor::from<int32_t>({6}, {-1, -1, -1, -1, -1, -1});
  for (const Dtype compute : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
    const Dtype stored = compute == Dtype::f64 ? Dtype::f64 : Dtype::f32;
    const Result result = run(random_normal({6, 8}, stored, 7), random_normal({20, 8}, stored, 8),
                              targets, 1.0, {.z_loss = 0.1, .soft_cap = 2.0}, compute);
    EXPECT_EQ(result.loss, 0);
    for (const double value : result.token_loss.values()) EXPECT_EQ(value, 0);
    for (const double value : result.dx.values()) EXPECT_EQ(value, 0);
    for (const double value : result.dweight.values()) EXPECT_EQ(value, 0);
  }
}

TEST(LinearCrossEntropy, AddsToTheWeightGradient) {
  const Tensor x = random_normal({20, 8}, Dtype::f32, 9);
  const Tensor w = random_normal({40, 8}, Dtype::f32, 10);
  const Tensor targets = some_targets(20, 40);
  const Result once = run(x, w, targets, 1.0, {}, Dtype::f32);
  const PackedWeight forward = ops::pack_weight(w, WeightUse::forward, Dtype::f32);
  const PackedWeight backward = ops::pack_weight(w, WeightUse::backward, Dtype::f32);
  Tensor dweight = Tensor::zeros(w.shape(), Dtype::f32);
  ops::linear_cross_entropy(x, forward, backward, targets, 1.0, {}, dweight);
  ops::linear_cross_entropy(x, forward, backward, targets, 1.0, {}, dweight);
  for (int64_t i = 0; i < dweight.count(); ++i) EXPECT_EQ(dweight.at(i), 2 * once.dweight.at(i));
}

TEST(LinearCrossEntropy, LossAloneHasTheSameBits) {
  const Tensor x = random_normal({100, 24}, Dtype::bf16, 11);
  const Tensor w = random_normal({333, 24}, Dtype::f32, 12);
  const Tensor targets = some_targets(100, 333);
  const CrossEntropyOptions options{.z_loss = 1e-3, .soft_cap = 10.0};
  const Result with = run(x, w, targets, 0.01, options, Dtype::bf16);
  const Result without = run(x, w, targets, 0.01, options, Dtype::bf16, false);
  EXPECT_EQ(with.loss, without.loss);
  EXPECT_TRUE(same_bits(with.token_loss, without.token_loss));
  EXPECT_FALSE(without.dx.defined());
}

TEST(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  const Tensor x = Tensor::from<float>({2, 1}, {1000.0F, -1000.0F});
  const Tensor w = Tensor::from<float>({3, 1}, {1.0F, 0.0F, -1.0F});
  const Tensor targets = Tensor::from<int32_t>({2}, {0, 0});
  const Result result = run(x, w, targets, 1.0, {}, Dtype::f32);
  EXPECT_EQ(result.token_loss.at(0), 0);
  EXPECT_EQ(result.token_loss.at(1), 2000);
  EXPECT_EQ(result.dx.at(0), 0);
  EXPECT_EQ(result.dx.at(1), -2);
}

TEST(LinearCrossEntropy, WideVocabulariesComeInParts) {
  // Logits of 1024 words exist at a time; at this width the weights of no more are kept near.
  constexpr int64_t kTokens = 9, kWidth = 2048, kVocabulary = 2500;
  const CrossEntropyOptions options{.z_loss = 1e-3, .soft_cap = 20.0, .valid_vocabulary = 2100};
  const Tensor x = random_normal({kTokens, kWidth}, Dtype::bf16, 13);
  const Tensor w = random_normal({kVocabulary, kWidth}, Dtype::bf16, 14, 0.05);
  const Tensor targets =
      Tensor::from<int32_t>({kTokens}, {0, 1023, 1024, 1025, 2047, 2048, 2099, -1, 7});
  const Result exact = run_f64(x, w, targets, 0.1, options);
  for (const Dtype compute : {Dtype::f32, Dtype::bf16}) {
    const Result result = run(x.to(compute), w.to(compute), targets, 0.1, options, compute);
    const double bound = compute == Dtype::bf16 ? 5e-3 : 1e-5;
    EXPECT_NEAR(result.loss, exact.loss, 1e-5 * exact.loss);
    EXPECT_LE(relative_error(result.dx, exact.dx), bound);
    EXPECT_LE(relative_error(result.dweight, exact.dweight), bound);
  }
}

TEST(LinearCrossEntropy, LogitsFarAboveThoseOfTheFirstWordsDoNotOverflow) {
  // Weights are relative to the largest logit of the first 1024 words; here all of these are 0.
  constexpr int64_t kVocabulary = 3000;
  Tensor w = Tensor::zeros({kVocabulary, 1}, Dtype::f32);
  w.data<float>()[2000] = 1.0F;
  w.data<float>()[2001] = 0.5F;
  const Tensor targets = Tensor::from<int32_t>({4}, {2000, 2000, 2001, 3});
  const Tensor mild = Tensor::from<float>({4, 1}, {1.0F, 60.0F, 2.0F, 3.0F});
  const Tensor wild = Tensor::from<float>({4, 1}, {1.0F, 60.0F, 600.0F, -3000.0F});
  for (const Dtype compute : {Dtype::f32, Dtype::bf16}) {
    const Result exact = run_f64(wild, w, targets, 1.0, {});
    const Result result = run(wild.to(compute), w, targets, 1.0, {}, compute);
    EXPECT_NEAR(result.loss, exact.loss, 1e-6 * exact.loss);
    EXPECT_LE(relative_error(result.dx, exact.dx), compute == Dtype::bf16 ? 5e-3 : 1e-5);
    EXPECT_LE(relative_error(result.dweight, exact.dweight), compute == Dtype::bf16 ? 5e-3 : 1e-5);
    // What is done anew for some tokens leaves the bits of the others.
    const Result other = run(mild.to(compute), w, targets, 1.0, {}, compute);
    EXPECT_TRUE(same_bits(result.dx.slice_rows(0, 2), other.dx.slice_rows(0, 2)));
    EXPECT_TRUE(same_bits(result.token_loss.slice_rows(0, 2), other.token_loss.slice_rows(0, 2)));
  }
}

TEST(LinearCrossEntropy, WrongTargetsAreNamed) {
  const Tensor x = Tensor::zeros({2, 4}, Dtype::f32);
  const Tensor w = Tensor::zeros({8, 4}, Dtype::f32);
  try {
    run(x, w, Tensor::from<int32_t>({2}, {0, 7}), 1.0, {.valid_vocabulary = 6}, Dtype::f32);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    EXPECT_STREQ(error.what(),
                 "linear_cross_entropy: the target of token 1 is 7 but the vocabulary ends at 6; "
                 "was the text tokenized with another vocabulary?");
  }
}

}  // namespace
}  // namespace sidewinder
