#pragma once
// Grouped-query softmax attention: H query heads and K key/value heads of width P, with any
// AttentionPattern, and with rotary positions, linear biases or none.

#include "model/init.h"
#include "model/layers/layer.h"
#include "model/options.h"

namespace sidewinder {

class Attention final : public Layer {
 public:
  Attention(const std::string& name, int64_t width, const BlockOptions& options, double norm_eps,
            const Initializer& initializer, double residual_divisor);

  Var forward(const Pass& pass, const Norm& norm, const Var& x) override;
  void visit(const ParameterVisitor& visitor) override;
  int64_t matrix_elements() const override;
  int64_t pair_elements() const override { return 2 * heads_ * head_width_; }
  AttentionPattern pattern() const override { return pattern_; }
  const BlockContext* context() const override { return &context_; }
  void set_context(const BlockContext& context) override;

 private:
  // Whether queries have another place for global keys than for near ones.
  bool counts_cached() const {
    return position_ == PositionKind::rope && options_.rope_positions == RopePositions::cache;
  }
  // The most tokens that a cache of global and near keys holds, and positions count.
  int64_t cached_tokens() const { return pattern_.global + pattern_.window; }
  // Of the tokens of `layout`, when such caches are all there is of their documents.
  Tensor places_in_cache(const Pass& pass, const SequenceLayout& layout) const;
  // Queries and keys twice as wide, so that their products are those of `near` queries with near
  // keys, and of `far` queries with the global keys of the documents of `layout`.
  static Tensor beside(const Tensor& near, const Tensor& far);
  Tensor with_global_apart(const Tensor& keys, const SequenceLayout& layout) const;
  // Of the cached and new keys, which end with the tokens of `layout`.
  Tensor cached_positions(const SequenceLayout& layout, int64_t keys) const;
  // Drops cached keys that no query to come sees.
  void forget(BlockState& state) const;
  // The cached keys and values of carried rows put before the new ones; the layout for them.
  SequenceLayout with_lanes(const LaneState& before, const SequenceLayout& layout, Var& keys,
                            Var& values) const;
  // Of these keys and values the ones that queries after the rows of `layout` may see.
  void keep_for_lanes(LaneState& after, const SequenceLayout& layout, const Var& keys,
                      const Var& values) const;
  // Appends keys and values to the block's cache and returns the cached and new ones as views.
  std::pair<Tensor, Tensor> with_cache(BlockState& state, const Tensor& keys,
                                       const Tensor& values) const;

  int64_t heads_;
  int64_t key_value_heads_;
  int64_t head_width_;
  std::string name_;
  BlockOptions options_;
  AttentionPattern pattern_;
  PositionKind position_;
  bool qk_norm_;
  double norm_eps_;
  BlockContext context_;
  Tensor slopes_;  // [H] f32; undefined unless position is alibi
  Parameter qkv_, query_norm_, key_norm_, out_;
};

}  // namespace sidewinder
