#pragma once
// Attention patterns of every kind, and of kinds combined, for tests that hold for all of them.

#include <fmt/core.h>

#include <string>
#include <vector>

#include "kernels/math/attention_pattern.h"

namespace sidewinder::testing {

inline std::vector<AttentionPattern> all_patterns() {
  return {
      {},
      {.window = 1},
      {.window = 5},
      {.window = 4, .dilation = 3},
      {.dilation = 4},
      {.window = 4, .stride = 4},
      {.window = 1, .stride = 6},
      {.window = 3, .global = 2, .stride = 7},
      {.window = 6, .block = 3, .global = 1, .stride = 5},
      {.window = 3, .dilation = 2, .stride = 5},
      {.window = 4, .block = 4},
      {.window = 12, .block = 4},
      {.window = 4, .block = 4, .summary = 1},
      {.window = 8, .block = 8, .summary = 3},
      {.window = 4, .global = 2},
      {.window = 7, .global = 5},
      {.window = 6, .block = 3, .global = 4},
      {.window = 4, .global = 2, .random = 3, .seed = 5},
      {.window = 8, .block = 4, .global = 4, .random = 2, .seed = 5},
      {.window = 8, .block = 4, .global = 3, .summary = 1, .random = 1, .seed = 1},
      {.window = 2, .dilation = 2, .global = 3},
      {.window = 2, .dilation = 3, .global = 1, .stride = 4, .random = 1, .seed = 2},
  };
}

inline std::string text_of(const AttentionPattern& p) {
  return fmt::format("window {} dilation {} block {} global {} stride {} summary {} random {}",
                     p.window, p.dilation, p.block, p.global, p.stride, p.summary, p.random);
}

}  // namespace sidewinder::testing
