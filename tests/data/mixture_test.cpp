#include "data/mixture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace sidewinder {
namespace {

TEST(Permutation, VisitsEveryValueOnce) {
  for (const uint64_t size : {1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 5000}) {
    const Permutation order(size, 7, 9);
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < size; ++i) {
      EXPECT_LT(order(i), size);
      seen.insert(order(i));
    }
    EXPECT_EQ(seen.size(), size);
  }
}

TEST(Permutation, DependsOnSeedAndTag) {
  const auto values = [](const Permutation& order) {
    std::vector<uint64_t> result;
    for (uint64_t i = 0; i < 100; ++i) result.push_back(order(i));
    return result;
  };
  const auto base = values(Permutation(100, 1, 1));
  EXPECT_EQ(base, values(Permutation(100, 1, 1)));
  EXPECT_NE(base, values(Permutation(100, 2, 1)));
  EXPECT_NE(base, values(Permutation(100, 1, 2)));
}

TEST(Permutation, HasNoVisibleOrder) {
  // Mean distance between neighbours of a random permutation of n values is about n / 3.
  constexpr uint64_t kSize = 10000;
  const Permutation order(kSize, 3, 5);
  double sum = 0;
  for (uint64_t i = 0; i + 1 < kSize; ++i) {
    sum += std::abs(static_cast<double>(order(i + 1)) - static_cast<double>(order(i)));
  }
  EXPECT_NEAR(sum / kSize / kSize, 1.0 / 3.0, 0.01);
}

// Draws documents whose length is a function of corpus and document.
std::vector<int64_t> shares(Mixture& mixture, size_t corpora, int64_t draws) {
  std::vector<int64_t> tokens(corpora, 0);
  for (int64_t i = 0; i < draws; ++i) {
    const Mixture::Choice choice = mixture.next();
    const int64_t length = 10 + choice.document * 7 % 50 + choice.corpus * 100;
    tokens[static_cast<size_t>(choice.corpus)] += length;
    mixture.took(length);
  }
  return tokens;
}

TEST(Mixture, KeepsTheSharesOfTokens) {
  Mixture mixture({{100, 3.0}, {10, 1.0}, {1000, 4.0}}, 11);
  const auto tokens = shares(mixture, 3, 20000);
  const auto total = static_cast<double>(tokens[0] + tokens[1] + tokens[2]);
  EXPECT_NEAR(static_cast<double>(tokens[0]) / total, 3.0 / 8, 1e-3);
  EXPECT_NEAR(static_cast<double>(tokens[1]) / total, 1.0 / 8, 1e-3);
  EXPECT_NEAR(static_cast<double>(tokens[2]) / total, 4.0 / 8, 1e-3);
}

TEST(Mixture, TakesEachDocumentOnceAnEpochInAnotherOrder) {
  Mixture mixture({{50, 1.0}}, 1);
  std::vector<std::vector<int64_t>> epochs;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t>& order = epochs.emplace_back();
    for (int i = 0; i < 50; ++i) {
      order.push_back(mixture.next().document);
      mixture.took(1);
    }
    EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 50U);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(Mixture, ContinuesFromAnyPlace) {
  Mixture mixture({{7, 1.0}, {3, 2.0}}, 5);
  for (int i = 0; i < 60; ++i) {
    Mixture other({{7, 1.0}, {3, 2.0}}, 5);
    other.go_to(mixture.places());
    Mixture::Choice expected{};
    Mixture copy = mixture;
    for (int k = 0; k < 20; ++k) {
      expected = copy.next();
      const Mixture::Choice found = other.next();
      EXPECT_EQ(found.corpus, expected.corpus);
      EXPECT_EQ(found.document, expected.document);
      copy.took(expected.document + 1);
      other.took(expected.document + 1);
    }
    mixture.took((mixture.next().document + 1));
  }
}

}  // namespace
}  // namespace sidewinder
