// The random keys of BigBird are a pure function of the seed, the block of the model and the block
// of the query: the same masks in every process, on every rank and after every restart.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/comm/communicator.h"
#include "kernels/ops/attention.h"
#include "model/options.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::same_bits;

constexpr int64_t kTokens = 192;

BlockOptions bigbird_block() {
  BlockOptions block;
  block.mixer = MixerKind::attention;
  block.pattern = PatternKind::bigbird;
  block.window = 16;
  block.global_tokens = 8;
  block.pattern_block = 8;
  block.random_blocks = 2;
  block.pattern_seed = 5;
  return block;
}

// Rows of a mask: 1 where query first + i sees the key.
Tensor mask_rows(const AttentionPattern& pattern, int64_t first, int64_t count) {
  Tensor mask = Tensor::zeros({count, kTokens}, Dtype::f32);
  for (int64_t i = 0; i < count; ++i) {
    const AttentionRow row = pattern.row(first + i);
    for (int64_t key = 0; key < kTokens; ++key) {
      mask.data<float>()[i * kTokens + key] = row.allows(key) ? 1.0F : 0.0F;
    }
  }
  return mask;
}

double cells(const Tensor& mask) {
  double sum = 0;
  for (const double cell : mask.values()) sum += cell;
  return sum;
}

TEST(Masks14, RandomKeysAreTheSameOn1And2And4Ranks) {
  for (const std::string block : {"blocks.0.mixer", "blocks.3.mixer"}) {
    const AttentionPattern pattern = attention_pattern(bigbird_block(), block);
    const Tensor expected = mask_rows(pattern, 0, kTokens);
    EXPECT_EQ(cells(expected), static_cast<double>(pattern.pairs(kTokens)));
    for (const int size : {1, 2, 4}) {
      run_ranks(size, [&](Communicator& ranks) {
        // Every rank makes the pattern itself, from what a recipe says, and has a part of the rows.
        const AttentionPattern own = attention_pattern(bigbird_block(), block);
        const int64_t share = kTokens / ranks.size();
        Tensor whole = Tensor::zeros({kTokens, kTokens}, Dtype::f32);
        ranks.all_gather(whole, mask_rows(own, ranks.rank() * share, share));
        EXPECT_TRUE(same_bits(whole, expected)) << block << " on " << ranks.size();
      });
    }
  }
}

// The kernel on a rank's queries, with the keys of the ranks before, as on one rank.
TEST(Masks14, AttentionOverRandomKeysIsTheSameOn1And2And4Ranks) {
  const AttentionPattern pattern = attention_pattern(bigbird_block(), "blocks.0.mixer");
  const Tensor q = random_normal({kTokens, 2, 16}, Dtype::f32, 1);
  const Tensor k = random_normal({kTokens, 2, 16}, Dtype::f32, 2);
  const Tensor v = random_normal({kTokens, 2, 16}, Dtype::f32, 3);
  const Tensor expected =
      ops::attention(q, k, v, SequenceLayout::unpacked(1, kTokens), pattern, 0.25).out;
  for (const int size : {1, 2, 4}) {
    run_ranks(size, [&](Communicator& ranks) {
      const int64_t share = kTokens / ranks.size();
      const int64_t begin = ranks.rank() * share;
      const SequenceLayout layout = SequenceLayout::continuation(1, share, begin, begin, begin);
      const Tensor part =
          ops::attention(q.slice_rows(begin, begin + share), k.slice_rows(0, begin + share),
                         v.slice_rows(0, begin + share), layout, pattern, 0.25)
              .out;
      Tensor whole = Tensor::zeros(expected.shape(), Dtype::f32);
      ranks.all_gather(whole, part);
      EXPECT_LT(testing::relative_error(whole, expected), 1e-6) << "on " << ranks.size();
    });
  }
}

TEST(Masks14, BlocksAndSeedsDrawTheirOwnKeys) {
  const auto mask = [](const BlockOptions& block, const std::string& name) {
    return mask_rows(attention_pattern(block, name), 0, kTokens);
  };
  BlockOptions other = bigbird_block();
  other.pattern_seed = 6;
  const Tensor first = mask(bigbird_block(), "blocks.0.mixer");
  EXPECT_TRUE(same_bits(first, mask(bigbird_block(), "blocks.0.mixer")));
  EXPECT_FALSE(same_bits(first, mask(bigbird_block(), "blocks.1.mixer")));
  EXPECT_FALSE(same_bits(first, mask(other, "blocks.0.mixer")));
}

}  // namespace
}  // namespace sidewinder
