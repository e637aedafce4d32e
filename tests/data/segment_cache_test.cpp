#include "data/segment_cache.h"

#include <gtest/gtest.h>

namespace sidewinder {
namespace {

std::vector<int32_t> ids_of(int i) { return std::vector<int32_t>(static_cast<size_t>(i % 7), i); }

TEST(SegmentCache, KnowsWhatWasAddedAndNothingElse) {
  SegmentCache cache;
  for (int i = 0; i < 1000; ++i) {
    const std::string segment = "segment " + std::to_string(i);
    EXPECT_FALSE(cache.find(segment).has_value());
    cache.add(segment, ids_of(i));
  }
  for (int i = 0; i < 1000; ++i) {
    const auto found = cache.find("segment " + std::to_string(i));
    ASSERT_TRUE(found.has_value()) << i;
    EXPECT_EQ(std::vector<int32_t>(found->begin(), found->end()), ids_of(i));
  }
  EXPECT_FALSE(cache.find("segment").has_value());
  EXPECT_FALSE(cache.find("segment 1000").has_value());
}

TEST(SegmentCache, ASegmentIsNewOnce) {
  SegmentCache cache;
  EXPECT_FALSE(cache.seen_before("whale"));
  EXPECT_TRUE(cache.seen_before("whale"));
  EXPECT_FALSE(cache.seen_before("sea"));
  EXPECT_TRUE(cache.seen_before("sea"));
}

TEST(SegmentCache, BeginsAnewWhenFullAndStaysRight) {
  SegmentCache cache;
  int known = 0;
  for (int i = 0; i < 200'000; ++i) {
    cache.add(std::to_string(i), ids_of(i));
    // Any earlier one is either unknown or right.
    const int other = static_cast<int>(int64_t{i} * 7919 % (i + 1));
    const auto found = cache.find(std::to_string(other));
    if (!found) continue;
    ++known;
    ASSERT_EQ(std::vector<int32_t>(found->begin(), found->end()), ids_of(other));
  }
  EXPECT_GT(known, 10'000);
  EXPECT_FALSE(cache.find("0").has_value());
  EXPECT_TRUE(cache.find("199999").has_value());
}

}  // namespace
}  // namespace sidewinder
