#include "model/cost.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "model/layer_pattern.h"
#include "model/layers/swiglu_mlp.h"

namespace sidewinder {
namespace {

double product(int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); }

PartCost mixer_cost(const std::string& letter, int64_t count, int64_t width,
                    const BlockOptions& options) {
  PartCost part;
  part.letter = letter;
  part.count = count;
  const auto blocks = static_cast<double>(count);
  if (options.mixer == MixerKind::attention) {
    const AttentionShape shape = attention_shape(width, options);
    part.pattern = attention_pattern(options);
    part.name = letter + ": attention, " + name_of(options.pattern).name;
    if (options.window > 0) part.name += fmt::format(" {}", options.window);
    part.token_flops = blocks * shape.projection_flops();
    part.pair_flops = blocks * shape.pair_flops();
    part.cache_elements = count * shape.cache_elements();
  } else {
    const Mamba1Shape shape = mamba1_shape(width, options);
    part.name = letter + ": mamba1";
    part.token_flops = blocks * shape.projection_flops();
    part.mixing_flops = blocks * shape.mixing_flops();
    part.conv_state_elements = count * shape.conv_state_elements();
    part.scan_state_elements = count * shape.scan_state_elements();
  }
  return part;
}

}  // namespace

double AttentionShape::projection_flops() const {
  return 2 * product(width, head_width) * static_cast<double>(2 * heads + 2 * key_value_heads);
}
double AttentionShape::pair_flops() const { return 4 * product(heads, head_width); }
int64_t AttentionShape::cache_elements() const { return 2 * key_value_heads * head_width; }

double Mamba1Shape::projection_flops() const {
  return 6 * product(width, inner) + 2 * product(inner, 2 * dt_rank + 2 * state);
}
double Mamba1Shape::mixing_flops() const {
  return 2 * product(conv_width, inner) + 7 * product(inner, state);
}
int64_t Mamba1Shape::scan_state_elements() const { return inner * state; }
int64_t Mamba1Shape::conv_state_elements() const { return (conv_width - 1) * inner; }

double Mamba2Shape::projection_flops() const {
  return 2 * product(width, 2 * inner + 2 * groups * state + heads) + 2 * product(inner, width);
}
double Mamba2Shape::mixing_flops() const {
  return 2 * product(conv_width, inner + 2 * groups * state) + 7 * product(inner, state);
}
int64_t Mamba2Shape::scan_state_elements() const { return inner * state; }

double feed_forward_flops(int64_t width, int64_t hidden, bool gated) {
  return (gated ? 6 : 4) * product(width, hidden);
}
double logits_flops(int64_t width, int64_t vocabulary) { return 2 * product(width, vocabulary); }

double visible_pairs(AttentionPattern pattern, std::span<const int64_t> lengths) {
  double pairs = 0;
  for (const int64_t length : lengths) pairs += static_cast<double>(pattern.pairs(length));
  return pairs;
}

double ModelCost::forward_flops(std::span<const int64_t> lengths) const {
  double tokens = 0;
  for (const int64_t length : lengths) tokens += static_cast<double>(length);
  double flops = 0;
  for (const PartCost& part : parts) {
    flops += (part.token_flops + part.mixing_flops) * tokens;
    if (part.pair_flops > 0) flops += part.pair_flops * visible_pairs(part.pattern, lengths);
  }
  return flops;
}

int64_t ModelCost::cache_bytes(int64_t length, int64_t bytes_per_element) const {
  int64_t bytes = 0;
  for (const PartCost& part : parts) {
    // What the last query may see, itself included.
    const AttentionPattern::Span gone = part.pattern.forgettable(std::max<int64_t>(0, length - 1));
    const int64_t kept = length - (gone.end - gone.begin);
    bytes += part.cache_elements * kept * bytes_per_element;
  }
  return bytes;
}

int64_t ModelCost::state_bytes() const {
  int64_t elements = 0;
  for (const PartCost& part : parts) {
    elements += part.conv_state_elements + part.scan_state_elements;
  }
  return elements * static_cast<int64_t>(sizeof(float));
}

AttentionShape attention_shape(int64_t width, const BlockOptions& options) {
  const int64_t heads = options.heads != 0 ? options.heads : width / options.head_width;
  return {width, heads, options.key_value_heads != 0 ? options.key_value_heads : heads,
          options.head_width};
}

Mamba1Shape mamba1_shape(int64_t width, const BlockOptions& options) {
  return {width, options.expand * width, options.state, options.conv_width,
          options.dt_rank != 0 ? options.dt_rank : (width + 15) / 16};
}

ModelCost cost_of(const ModelOptions& options) {
  std::map<std::string, int64_t> blocks;
  for (const char letter : expand_layers(options)) ++blocks[std::string(1, letter)];
  ModelCost cost;
  PartCost feed_forward;
  feed_forward.name = "feed-forward";
  for (const auto& [letter, count] : blocks) {
    const BlockOptions& block = options.blocks.at(letter);
    cost.parts.push_back(mixer_cost(letter, count, options.width, block));
    if (block.feed_forward == FeedForwardKind::none) continue;
    feed_forward.count += count;
    feed_forward.token_flops +=
        static_cast<double>(count) *
        feed_forward_flops(options.width, hidden_width(options.width, block), /*gated=*/true);
  }
  if (feed_forward.count > 0) cost.parts.push_back(std::move(feed_forward));
  PartCost head;
  head.name = "output layer";
  head.count = 1;
  head.token_flops = logits_flops(options.width, options.vocabulary);
  cost.parts.push_back(std::move(head));
  return cost;
}

}  // namespace sidewinder
