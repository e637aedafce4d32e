// Attention over several blocks of keys, as wide heads make them: seconds for plain loops.
#include <string>
#include <vector>

#include "tests/kernels/attention_problem.h"
#include "tests/support/patterns.h"

namespace sidewinder {
namespace {

using testing::AttentionPath;
using testing::expect_matches_reference;
using testing::packed;
using testing::Problem;

INSTANTIATE_TEST_SUITE_P(Levels, AttentionPath, ::testing::ValuesIn(testing::all_paths()),
                         testing::path_name);

TEST_P(AttentionPath, MatchesReferenceOverSeveralBlocks) {
  // Wide heads make the blocks of keys that are packed at once short: some 100 to 200 keys.
  for (const int64_t window : {0, 250}) {
    for (const int64_t kv_heads : {1, 2}) {
      SCOPED_TRACE(std::to_string(window) + " " + std::to_string(kv_heads));
      Problem p{.layout = packed(1, 420, {0, 401}),
                .pattern = {window},
                .heads = 2,
                .kv_heads = kv_heads,
                .width = 256,
                .value_width = 256,
                .scale = 0.0625F};
      expect_matches_reference(p, GetParam().dtype);
    }
  }
}

TEST_P(AttentionPath, PatternsOverSeveralBlocksOfKeys) {
  // Wide heads make the blocks of keys that are packed at once short: some 100 to 200 keys.
  const std::vector<AttentionPattern> patterns = {
      {.window = 32, .dilation = 2},
      {.window = 16, .stride = 16},
      {.window = 8, .block = 8, .summary = 4},
      {.window = 100, .global = 130},
      {.window = 16, .block = 8, .global = 8, .random = 3, .seed = 3}};
  const Problem p{.layout = packed(1, 420, {0, 11}),
                  .heads = 2,
                  .kv_heads = 1,
                  .width = 256,
                  .value_width = 256,
                  .scale = 0.0625F};
  expect_matches_reference(p, patterns, GetParam().dtype);
}

}  // namespace
}  // namespace sidewinder
