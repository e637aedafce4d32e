#include "model/options.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/philox.h"

namespace sidewinder {

const std::vector<PatternName>& pattern_names() {
  static const std::vector<PatternName> names = {
      {"full", PatternKind::full, {}},
      {"window", PatternKind::window, {"window"}},
      {"dilated", PatternKind::dilated, {"window", "dilation"}},
      {"strided", PatternKind::strided, {"window", "stride"}},
      {"global_window", PatternKind::global_window, {"window", "global_tokens"}},
      {"sink_window", PatternKind::sink_window, {"window", "global_tokens"}},
      {"bigbird",
       PatternKind::bigbird,
       {"window", "global_tokens", "random_blocks", "pattern_block", "pattern_seed"}},
      {"fixed", PatternKind::fixed, {"pattern_block", "summary"}},
      {"chunked", PatternKind::chunked, {"pattern_block"}},
  };
  return names;
}

const PatternName& name_of(PatternKind kind) {
  return pattern_names().at(static_cast<size_t>(kind));
}

AttentionPattern attention_pattern(const BlockOptions& block, const std::string& name) {
  switch (block.pattern) {
    case PatternKind::full:
    case PatternKind::window: return {.window = block.window};
    case PatternKind::dilated: return {.window = block.window, .dilation = block.dilation};
    case PatternKind::strided: return {.window = block.window, .stride = block.stride};
    case PatternKind::global_window:
    case PatternKind::sink_window: return {.window = block.window, .global = block.global_tokens};
    case PatternKind::bigbird:
      return {.window = block.window,
              .block = block.pattern_block,
              .global = block.global_tokens,
              .random = block.random_blocks,
              .seed = Philox(static_cast<uint64_t>(block.pattern_seed), name).bits(0)};
    case PatternKind::fixed:
      return {
          .window = block.pattern_block, .block = block.pattern_block, .summary = block.summary};
    case PatternKind::chunked: return {.window = block.pattern_block, .block = block.pattern_block};
  }
  return {};
}

int64_t visible_reach(const BlockOptions& block, int64_t context) {
  const int64_t reach = attention_pattern(block).reach(context);
  const bool cached =
      block.position == PositionKind::rope && block.rope_positions == RopePositions::cache;
  return cached ? std::min(reach, block.window + block.global_tokens) : reach;
}

RopeOptions rope_options(const BlockOptions& block) {
  RopeOptions rope;
  rope.head_width = block.head_width;
  rope.rotary_width = 2 * static_cast<int64_t>(std::lround(
                              block.rotary_share * static_cast<double>(block.head_width) / 2));
  rope.base = block.rope_base;
  rope.interleaved = block.rope_layout == RopeLayout::interleaved;
  RopeScaling& scaling = rope.scaling;
  scaling.kind = block.rope_scaling;
  scaling.factor = block.rope_factor;
  scaling.original_context = block.rope_original_context;
  scaling.beta_fast = block.rope_beta_fast;
  scaling.beta_slow = block.rope_beta_slow;
  scaling.ramp = block.rope_ramp;
  scaling.truncate = block.rope_truncate;
  scaling.attention_factor = block.rope_attention_factor;
  scaling.mscale = block.rope_mscale;
  scaling.mscale_all_dim = block.rope_mscale_all_dim;
  scaling.short_factors = block.rope_short_factors;
  scaling.long_factors = block.rope_long_factors;
  scaling.low_frequency_factor = block.rope_low_frequency_factor;
  scaling.high_frequency_factor = block.rope_high_frequency_factor;
  return rope;
}

void set_rope_options(BlockOptions& block, const RopeOptions& rope) {
  SIDEWINDER_ASSERT(rope.head_width == block.head_width);
  block.position = PositionKind::rope;
  block.rotary_share =
      static_cast<double>(rope.rotary_width) / static_cast<double>(rope.head_width);
  block.rope_base = rope.base;
  block.rope_layout = rope.interleaved ? RopeLayout::interleaved : RopeLayout::half_split;
  const RopeScaling& scaling = rope.scaling;
  block.rope_scaling = scaling.kind;
  block.rope_factor = scaling.factor;
  block.rope_original_context = scaling.original_context;
  block.rope_beta_fast = scaling.beta_fast;
  block.rope_beta_slow = scaling.beta_slow;
  block.rope_ramp = scaling.ramp;
  block.rope_truncate = scaling.truncate;
  block.rope_attention_factor = scaling.attention_factor;
  block.rope_mscale = scaling.mscale;
  block.rope_mscale_all_dim = scaling.mscale_all_dim;
  block.rope_short_factors = scaling.short_factors;
  block.rope_long_factors = scaling.long_factors;
  block.rope_low_frequency_factor = scaling.low_frequency_factor;
  block.rope_high_frequency_factor = scaling.high_frequency_factor;
}

}  // namespace sidewinder
