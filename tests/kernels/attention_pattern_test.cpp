#include "kernels/math/attention_pattern.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/patterns.h"

namespace sidewinder {
namespace {

using testing::all_patterns;

int64_t cells(const AttentionPattern& pattern, int64_t length) {
  int64_t count = 0;
  for (int64_t query = 0; query < length; ++query) {
    for (int64_t key = 0; key < length; ++key) count += pattern.allows(query, key) ? 1 : 0;
  }
  return count;
}

TEST(AttentionPattern, WindowCountsTheQueryItself) {
  const AttentionPattern pattern{3};
  EXPECT_TRUE(pattern.allows(7, 7));
  EXPECT_TRUE(pattern.allows(7, 5));
  EXPECT_FALSE(pattern.allows(7, 4));
  EXPECT_FALSE(pattern.allows(7, 8));
}

TEST(AttentionPattern, CountsOnA24By24Grid) {
  struct Row {
    AttentionPattern pattern;
    int64_t cells;
  };
  const std::vector<Row> rows = {
      {{}, 300},
      {{.window = 4}, 90},
      {{.window = 5}, 110},
      {{.window = 6}, 129},
      {{.window = 8}, 164},
      {{.window = 4, .dilation = 2}, 84},
      {{.window = 4, .dilation = 3}, 78},
      {{.dilation = 4}, 84},  // strided only
      {{.dilation = 6}, 60},
      {{.window = 1, .stride = 4}, 84},
      {{.window = 1, .stride = 6}, 60},
      {{.window = 4, .stride = 4}, 150},  // local or strided
      {{.window = 6, .stride = 6}, 165},
      {{.window = 4, .block = 4, .summary = 1}, 120},  // fixed
      {{.window = 4, .block = 4, .summary = 2}, 180},
      {{.window = 4, .block = 4}, 60},  // chunked
      {{.window = 8, .block = 8}, 108},
      {{.window = 8, .block = 4}, 140},   // own and previous block
      {{.window = 4, .global = 2}, 129},  // Longformer and sinks
      {{.window = 4, .global = 4}, 164},
      {{.window = 8, .global = 4}, 222},
      {{.window = 4, .global = 2, .random = 1}, 147},  // BigBird
      {{.window = 4, .global = 2, .random = 2}, 164},
      {{.window = 4, .global = 2, .random = 3}, 180},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(cells(row.pattern, 24), row.cells) << testing::text_of(row.pattern);
    EXPECT_EQ(row.pattern.pairs(24), row.cells) << testing::text_of(row.pattern);
  }
  // The random draw changes which keys are seen, never how many.
  for (uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(cells({.window = 4, .global = 2, .random = 3, .seed = seed}, 24), 180);
  }
}

// The published pictures of patterns that look both ways: ours are their lower halves.
TEST(AttentionPattern, CountsOfPatternsThatLookBothWays) {
  const auto both_ways = [](const AttentionPattern& pattern) {
    int64_t count = 0;
    for (int64_t i = 0; i < 24; ++i) {
      for (int64_t j = 0; j < 24; ++j) {
        count += pattern.allows(i, j) || pattern.allows(j, i) ? 1 : 0;
      }
    }
    return count;
  };
  EXPECT_EQ(both_ways({.window = 5}), 196);
  EXPECT_EQ(both_ways({.window = 5, .dilation = 2}), 176);
  EXPECT_EQ(both_ways({.window = 5, .global = 2}), 270);  // Longformer
  EXPECT_EQ(both_ways({.window = 3, .global = 2}), 196);
}

TEST(AttentionPattern, AWindowSeesAsManyKeysAsItSays) {
  const AttentionPattern pattern{4};
  for (int64_t query = 0; query < 24; ++query) {
    int64_t seen = 0;
    for (int64_t key = 0; key < 24; ++key) {
      // As flash attention says it: window_size = (3, 0), both sides inclusive.
      const bool flash = query - 3 <= key && key <= query;
      EXPECT_EQ(pattern.allows(query, key), flash);
      seen += flash ? 1 : 0;
    }
    EXPECT_EQ(seen, std::min<int64_t>(query + 1, 4));
  }
}

TEST(AttentionPattern, TilesOfAWindow) {
  // An interior tile of B queries touches ceil((w − 1) / B) + 1 tiles of keys.
  EXPECT_EQ(AttentionPattern{4}.tiles(24, 4), 11);
  EXPECT_EQ(AttentionPattern{5}.tiles(24, 4), 11);
  EXPECT_EQ(AttentionPattern{6}.tiles(24, 4), 15);
  for (const int64_t window : {1, 63, 64, 65, 66, 512}) {
    const AttentionPattern pattern{window};
    const int64_t per_tile = (window - 1 + 63) / 64 + 1;
    EXPECT_EQ(pattern.tiles(8192, 64) - pattern.tiles(8192 - 64, 64), per_tile) << window;
  }
  // 176 cells are computed for the 140 of the own and the previous block.
  EXPECT_EQ((AttentionPattern{.window = 8, .block = 4}.tiles(24, 4)), 11);
  EXPECT_EQ(AttentionPattern{}.tiles(24, 4), 21);  // 336 cells of the lower triangle of blocks
}

TEST(AttentionPattern, TilesGrowWithTheLengthAndNotItsSquare) {
  const std::vector<AttentionPattern> linear = {
      {.window = 512},
      {.window = 512, .global = 4},
      {.window = 512, .block = 512},
      {.window = 128, .block = 64, .global = 64, .random = 3},
  };
  for (const AttentionPattern& pattern : linear) {
    const double ratio = static_cast<double>(pattern.tiles(32768, 64)) /
                         static_cast<double>(pattern.tiles(16384, 64));
    EXPECT_GT(ratio, 1.95) << testing::text_of(pattern);
    EXPECT_LT(ratio, 2.1) << testing::text_of(pattern);
  }
  EXPECT_GT(AttentionPattern{}.tiles(32768, 64), 3 * AttentionPattern{}.tiles(16384, 64));
}

TEST(AttentionPattern, EverythingFollowsFromTheRule) {
  for (const AttentionPattern& pattern : all_patterns()) {
    SCOPED_TRACE(testing::text_of(pattern));
    for (int64_t length = 1; length <= 40; ++length) {
      ASSERT_EQ(pattern.pairs(length), cells(pattern, length));
    }
    for (int64_t query = 0; query < 40; ++query) {
      EXPECT_TRUE(pattern.allows(query, query));
      for (int64_t key = 0; key < 40; ++key) {
        const bool seen = pattern.allows(query, key);
        if (key > query) {
          EXPECT_FALSE(seen);
        }
        if (pattern.contiguous()) {
          EXPECT_EQ(seen, pattern.first_near(query) <= key && key <= query);
        }
        if (const int64_t classes = pattern.classes(); classes > 1) {
          EXPECT_EQ(seen, query % classes == key % classes &&
                              pattern.within_class().allows(query / classes, key / classes));
        }
      }
    }
  }
}

TEST(AttentionPattern, VisitedKeysAreThoseSeenAndNoFarOnesBesides) {
  for (const AttentionPattern& pattern : all_patterns()) {
    SCOPED_TRACE(testing::text_of(pattern));
    for (int64_t first = 0; first < 60; first += 7) {
      for (const int64_t last : {first, first + 1, first + 9}) {
        const AttentionPattern::Span near = pattern.near_span(first, last);
        for (const int64_t end : {near.begin, near.begin / 2 * 2, near.begin / 2}) {
          const FarKeys far = pattern.far_keys(first, last, end);
          std::vector<int> visited(static_cast<size_t>(last + 1), 0);
          for (const int32_t key : far.keys) ++visited[static_cast<size_t>(key)];
          for (int64_t key = 0; key < end; ++key) {
            int64_t seeing = 0;
            for (int64_t query = first; query <= last; ++query) {
              seeing += pattern.allows(query, key) ? 1 : 0;
            }
            ASSERT_EQ(visited[static_cast<size_t>(key)], seeing > 0 ? 1 : 0);
          }
          for (size_t i = 0; i < far.keys.size(); ++i) {
            if (static_cast<int64_t>(i) >= far.shared) continue;
            for (int64_t query = first; query <= last; ++query) {
              EXPECT_TRUE(pattern.allows(query, far.keys[i]));
            }
          }
        }
      }
    }
  }
}

TEST(AttentionPattern, EveryVisibleKeyBelongsToOnePart) {
  for (const AttentionPattern& pattern : all_patterns()) {
    SCOPED_TRACE(testing::text_of(pattern));
    const std::vector<AttentionPart> parts = pattern.parts();
    for (int64_t query = 0; query < 60; ++query) {
      std::vector<int> seen(60, 0);
      for (const AttentionPart& part : parts) {
        const int64_t r = query % part.step;
        const AttentionPartRow row(part, query / part.step, r);
        const AttentionPattern::Span near = part.near(query / part.step, r);
        for (int64_t key = r; key < 60; key += part.step) {
          const int64_t within = key / part.step;
          const bool allowed = row.allows(within);
          const bool in_span = near.begin <= within && within < near.end;
          seen[static_cast<size_t>(key)] += allowed ? 1 : 0;
          if (part.sees_only_near()) {
            EXPECT_TRUE(in_span || !allowed);
          }
          if (part.sees_all_near()) {
            EXPECT_TRUE(allowed || !in_span);
          }
          if (!part.needs_visibility()) {
            EXPECT_EQ(allowed, in_span);
          }
        }
        if (query >= part.step) {
          const AttentionPattern::Span before = part.near(query / part.step - 1, r);
          EXPECT_LE(before.begin, near.begin);
          EXPECT_LE(before.end, near.end);
        }
      }
      for (int64_t key = 0; key < 60; ++key) {
        ASSERT_EQ(seen[static_cast<size_t>(key)], pattern.allows(query, key) ? 1 : 0)
            << query << " " << key;
      }
    }
  }
}

TEST(AttentionPattern, ForgottenKeysAreMissedByNoOne) {
  for (const AttentionPattern& pattern : all_patterns()) {
    SCOPED_TRACE(testing::text_of(pattern));
    for (int64_t now = 0; now < 50; ++now) {
      const auto [first, last] = pattern.forgettable(now);
      const int64_t begin = first;
      const int64_t end = last;
      const int64_t count = end - begin;
      ASSERT_GE(count, 0);
      const auto kept = [&](int64_t key) { return key < begin ? key : key - count; };
      for (int64_t query = now; query < 70; ++query) {
        for (int64_t key = 0; key <= query; ++key) {
          if (key >= begin && key < end) {
            ASSERT_FALSE(pattern.allows(query, key));
          } else {
            ASSERT_EQ(pattern.allows(query, key), pattern.allows(kept(query), kept(key)));
          }
        }
      }
    }
  }
}

TEST(AttentionPattern, RandomKeysDependOnSeedAndRowAlone) {
  const AttentionPattern pattern{.window = 8, .block = 4, .global = 4, .random = 2, .seed = 7};
  AttentionPattern other = pattern;
  other.seed = 8;
  int64_t different = 0;
  for (int64_t query = 0; query < 200; ++query) {
    const AttentionRow row = pattern.row(query);
    const AttentionRow again = pattern.row(query);
    ASSERT_EQ(row.drawn, std::min<int64_t>(2, std::max<int64_t>(0, query / 4 - 1 - 1)));
    for (int64_t i = 0; i < row.drawn; ++i) {
      EXPECT_EQ(row.blocks[i], again.blocks[i]);
      EXPECT_EQ(row.blocks[i], pattern.row(query / 4 * 4).blocks[i]);
      EXPECT_GE(row.blocks[i], 1);
      EXPECT_LT(row.blocks[i], query / 4 - 1);
      different += row.blocks[i] != other.row(query).blocks[i] ? 1 : 0;
    }
    if (row.drawn == 2) {
      EXPECT_NE(row.blocks[0], row.blocks[1]);
    }
  }
  EXPECT_GT(different, 100);
}

TEST(AttentionPattern, RandomBlocksAreDrawnEvenly) {
  // 1,000 draws of 2 out of 10 candidates: 200 each, standard deviation 12.6.
  std::vector<int> drawn(10, 0);
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    const AttentionPattern pattern{.window = 1, .random = 2, .seed = seed};
    const AttentionRow row = pattern.row(10);
    ASSERT_EQ(row.drawn, 2);
    for (int64_t i = 0; i < 2; ++i) ++drawn[static_cast<size_t>(row.blocks[i])];
  }
  for (const int count : drawn) EXPECT_NEAR(count, 200, 60);
}

TEST(AttentionPattern, SaysWhatIsWrong) {
  EXPECT_EQ(AttentionPattern{.window = -1}.mistake(),
            "window -1 is negative; use 0 for full causal attention");
  EXPECT_EQ(AttentionPattern{.dilation = 0}.mistake(), "dilation 0 is below 1, which is none");
  EXPECT_EQ(AttentionPattern{.block = 0}.mistake(), "block 0 is below 1, which is none");
  EXPECT_EQ((AttentionPattern{.window = 6, .block = 4}.mistake()),
            "window 6 is not a multiple of block 4");
  EXPECT_EQ((AttentionPattern{.window = 8, .dilation = 2, .block = 4}.mistake()),
            "dilation 2 with block 4; one of them must be 1");
  EXPECT_EQ(AttentionPattern{.global = -2}.mistake(),
            "global -2 is negative; use 0 for no global tokens");
  EXPECT_EQ(AttentionPattern{.stride = -2}.mistake(), "stride -2 is negative; use 0 for none");
  EXPECT_EQ((AttentionPattern{.window = 4, .block = 4, .summary = 5}.mistake()),
            "summary 5 is not between 0 and block 4");
  EXPECT_EQ(AttentionPattern{.random = 17}.mistake(), "random 17 is not between 0 and 16");
  for (const AttentionPattern& pattern : all_patterns()) EXPECT_EQ(pattern.mistake(), "");
}

}  // namespace
}  // namespace sidewinder
