#include "tools/commands/ngram_baseline.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/base/philox.h"

namespace sidewinder {
namespace {

NgramCounts counts_of_random_pairs(int64_t vocabulary, int64_t pairs) {
  NgramCounts counts(vocabulary);
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  const Philox random(3, "pairs");
  for (int64_t i = 0; i < pairs; ++i) {
    const double u = random.uniform(static_cast<uint64_t>(2 * i));
    const double v = random.uniform(static_cast<uint64_t>(2 * i + 1));
    tokens.push_back(static_cast<int32_t>(u * u * static_cast<double>(vocabulary)));
    targets.push_back(i % 7 == 0 ? -1 : static_cast<int32_t>(v * v * v * static_cast<double>(vocabulary)));
  }
  counts.add(tokens, targets);
  counts.finish();
  return counts;
}

TEST(NgramBaseline, ProbabilitiesSumToOneInEveryContext) {
  const NgramCounts counts = counts_of_random_pairs(50, 400);
  double unigram = 0;
  for (int32_t w = 0; w < 50; ++w) unigram += std::exp(-counts.unigram_loss(w));
  EXPECT_NEAR(unigram, 1.0, 1e-12);
  for (int32_t v = 0; v < 50; ++v) {
    double bigram = 0;
    for (int32_t w = 0; w < 50; ++w) bigram += std::exp(-counts.bigram_loss(v, w));
    EXPECT_NEAR(bigram, 1.0, 1e-12) << "context " << v;
  }
}

TEST(NgramBaseline, LearnsADeterministicSuccessor) {
  NgramCounts counts(10);
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  for (int32_t i = 0; i < 1000; ++i) {
    tokens.push_back(i % 10);
    targets.push_back((i + 1) % 10);
  }
  counts.add(tokens, targets);
  counts.finish();
  EXPECT_EQ(counts.pairs(), 1000);
  EXPECT_LT(counts.bigram_loss(3, 4), 0.02);
  EXPECT_GT(counts.bigram_loss(3, 5), 4.0);
  EXPECT_NEAR(counts.unigram_loss(3), std::log(10.0), 1e-3);
}

}  // namespace
}  // namespace sidewinder
