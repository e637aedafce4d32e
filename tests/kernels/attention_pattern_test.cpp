#include "kernels/math/attention_pattern.h"

#include <gtest/gtest.h>

namespace sidewinder {
namespace {

TEST(AttentionPattern, WindowCountsTheQueryItself) {
  const AttentionPattern pattern{3};
  EXPECT_TRUE(pattern.allows(7, 7));
  EXPECT_TRUE(pattern.allows(7, 5));
  EXPECT_FALSE(pattern.allows(7, 4));
  EXPECT_FALSE(pattern.allows(7, 8));
}

TEST(AttentionPattern, FirstVisibleAndPairsAgreeWithTheRule) {
  for (const int64_t window : {0, 1, 2, 5, 11, 12, 13, 40}) {
    const AttentionPattern pattern{window};
    for (int64_t length = 1; length <= 13; ++length) {
      int64_t pairs = 0;
      for (int64_t query = 0; query < length; ++query) {
        for (int64_t key = 0; key < length; ++key) {
          const bool seen = pattern.allows(query, key);
          EXPECT_EQ(seen, key >= pattern.first_visible(0, query) && key <= query);
          pairs += seen ? 1 : 0;
        }
      }
      EXPECT_EQ(pattern.pairs(length), pairs);
    }
  }
}

}  // namespace
}  // namespace sidewinder
