#include <gtest/gtest.h>

#include <vector>

#include "kernels/ops/attention.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::same_bits;

std::vector<Tensor> run(Dtype dtype, int64_t kv_heads, const AttentionPattern& pattern) {
  // Wide heads make blocks of keys short, so that keys are split over work items when kv_heads
  // is 1.
  constexpr int64_t kHeads = 4;
  constexpr int64_t kWidth = 128;
  const std::vector<int32_t> starts = {0, 380, 381};
  const SequenceLayout layout = SequenceLayout::packed(2, 420, starts);
  const int64_t tokens = layout.tokens();
  const Tensor q = random_normal({tokens, kHeads, kWidth}, dtype, 1);
  const Tensor k = random_normal({tokens, kv_heads, kWidth}, dtype, 2);
  const Tensor v = random_normal({tokens, kv_heads, kWidth}, dtype, 3);
  const Tensor dout = random_normal({tokens, kHeads, kWidth}, dtype, 4);
  const auto [out, lse] = ops::attention(q, k, v, layout, pattern, 0.09F);
  const auto [dq, dk, dv] =
      ops::attention_backward(dout, q, k, v, out, lse, layout, pattern, 0.09F);
  return {out, lse, dq, dk, dv};
}

std::vector<AttentionPattern> patterns() {
  return {{},
          {.window = 150},
          {.window = 20, .dilation = 3},
          {.window = 20, .stride = 16},
          {.window = 16, .block = 16, .summary = 2},
          {.window = 32, .block = 8, .global = 8, .random = 3}};
}

TEST(AttentionThreads, AnyNumberOfThreadsGivesTheSameBits) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
    for (const int64_t kv_heads : {1, 4}) {
      for (const AttentionPattern& pattern : patterns()) {
        std::vector<Tensor> expected;
        testing::for_each_pool_size([&](int threads) {
          const std::vector<Tensor> actual = run(dtype, kv_heads, pattern);
          if (expected.empty()) expected = actual;
          for (size_t i = 0; i < expected.size(); ++i) {
            EXPECT_TRUE(same_bits(actual[i], expected[i])) << "result " << i << ", " << threads;
          }
        });
      }
    }
  }
}

// A document so long that several threads work on the blocks of one key/value head.
TEST(AttentionThreads, ThreadsThatShareAHeadGiveTheSameBits) {
  constexpr int64_t kTokens = 2100;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const AttentionPattern& pattern : {AttentionPattern{}, AttentionPattern{.window = 150},
                                            AttentionPattern{.window = 50, .global = 3}}) {
      const auto make = [&](int64_t heads, uint64_t seed) {
        return random_normal({kTokens, heads, 16}, dtype, seed);
      };
      const Tensor q = make(2, 1);
      const Tensor k = make(1, 2);
      const Tensor v = make(1, 3);
      const Tensor dout = make(2, 4);
      const SequenceLayout layout = SequenceLayout::unpacked(1, kTokens);
      const ops::AttentionOut forward = ops::attention(q, k, v, layout, pattern, 0.25F);
      std::vector<Tensor> expected;
      testing::for_each_pool_size([&](int threads) {
        const auto [dq, dk, dv] = ops::attention_backward(dout, q, k, v, forward.out, forward.lse,
                                                          layout, pattern, 0.25F);
        const std::vector<Tensor> actual = {dq, dk, dv};
        if (expected.empty()) expected = actual;
        for (size_t i = 0; i < expected.size(); ++i) {
          EXPECT_TRUE(same_bits(actual[i], expected[i])) << "result " << i << ", " << threads;
        }
      });
    }
  }
}

}  // namespace
}  // namespace sidewinder
