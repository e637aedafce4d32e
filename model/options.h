#pragma once
// What a model is made of. One letter of `layers` is one block: a norm and a mixer, then (unless
// feed_forward is none) a norm and a feed-forward, each added to the residual stream.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/math/attention_pattern.h"
#include "kernels/math/rope.h"

namespace sidewinder {

enum class MixerKind : uint8_t { mamba1, attention };
enum class PatternKind : uint8_t {
  full,
  window,
  dilated,
  strided,
  global_window,
  sink_window,
  bigbird,
  fixed,
  chunked
};
enum class PositionKind : uint8_t { rope, alibi, none };
enum class RopeLayout : uint8_t { half_split, interleaved };
// Whether positions count the tokens of the document, or those that a cache keeps of it.
enum class RopePositions : uint8_t { text, cache };
enum class FeedForwardKind : uint8_t { none, swiglu };

struct BlockOptions {
  MixerKind mixer = MixerKind::mamba1;

  // mamba1
  int64_t state = 16;      // N
  int64_t conv_width = 4;  // W
  int64_t expand = 2;      // E = expand · width
  int64_t dt_rank = 0;     // 0: ceil(width / 16)
  double dt_min = 1e-3;
  double dt_max = 0.1;
  double dt_floor = 1e-4;

  // attention
  PatternKind pattern = PatternKind::full;
  int64_t window = 0;    // near keys that are visible, including the query itself
  int64_t dilation = 0;  // AttentionPattern says what these mean
  int64_t stride = 0;
  int64_t global_tokens = 0;
  int64_t pattern_block = 0;
  int64_t summary = 0;
  int64_t random_blocks = 0;
  int64_t pattern_seed = 0;
  int64_t heads = 0;            // 0: width / head_width
  int64_t key_value_heads = 0;  // 0: heads
  int64_t head_width = 64;      // P
  bool qk_norm = false;
  PositionKind position = PositionKind::rope;

  // rope; RopeScaling says what these mean, and has the same defaults
  RopeLayout rope_layout = RopeLayout::half_split;
  double rope_base = 10000.0;
  double rotary_share = 1.0;                           // of each head that is turned
  RopePositions rope_positions = RopePositions::text;  // cache: of patterns with global tokens
  RopeScalingKind rope_scaling = RopeScalingKind::none;
  double rope_factor = 1.0;
  int64_t rope_original_context = 0;
  bool rope_allow_mismatch = false;  // the factor need not lead to the context, nor matter at all
  double rope_beta_fast = 32.0;
  double rope_beta_slow = 1.0;
  RopeRamp rope_ramp = RopeRamp::index;
  bool rope_truncate = true;
  double rope_attention_factor = 0.0;
  double rope_mscale = 0.0;
  double rope_mscale_all_dim = 0.0;
  std::vector<double> rope_short_factors;
  std::vector<double> rope_long_factors;
  double rope_low_frequency_factor = 1.0;
  double rope_high_frequency_factor = 4.0;

  // feed-forward
  FeedForwardKind feed_forward = FeedForwardKind::swiglu;
  int64_t hidden = 0;  // F; 0: 8/3 · width, rounded up to a multiple of 64
};

struct ModelOptions {
  int64_t width = 0;       // D
  int64_t vocabulary = 0;  // V
  std::string layers;      // "mw" or "mmmw mmmg": one letter per block; spaces are for the eye
  int64_t repeat = 1;      // how often `layers` is repeated
  std::map<std::string, BlockOptions> blocks;  // by letter
  bool tied_embeddings = true;
  double norm_eps = 1e-5;
  double logit_soft_cap = 0.0;  // 0: none
  int64_t max_context = 0;      // longest row; 0: train.context
};

// The name of each kind of pattern and the options that it uses.
struct PatternName {
  std::string name;
  PatternKind kind;
  std::vector<std::string> keys;
};
const std::vector<PatternName>& pattern_names();
const PatternName& name_of(PatternKind kind);

// What a block with attention sees. Random keys differ from block to block: `name` is its name.
AttentionPattern attention_pattern(const BlockOptions& block, const std::string& name = "");

// The number of distances at which a query in rows of `context` tokens can see a key, as its
// positions tell them.
int64_t visible_reach(const BlockOptions& block, int64_t context);

// The rotary options of a block with attention.
RopeOptions rope_options(const BlockOptions& block);
// The other way: position becomes rope; the head width must be the block's.
void set_rope_options(BlockOptions& block, const RopeOptions& rope);

// What may change between steps while a context grows: which distances the attention blocks of a
// letter see, and how they turn positions.
struct BlockContext {
  int64_t window = 0;     // as in BlockOptions; 0: all earlier keys, or the pattern has none
  RopeOptions rope = {};  // of blocks with position = rope
};

}  // namespace sidewinder
