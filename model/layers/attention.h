#pragma once
// Grouped-query softmax attention with rotary positions: H query heads and K key/value heads of
// width P, full or windowed.

#include "model/init.h"
#include "model/layers/layer.h"
#include "model/options.h"

namespace sidewinder {

class Attention final : public Layer {
 public:
  Attention(const std::string& name, int64_t width, const BlockOptions& options, double norm_eps,
            const Initializer& initializer, double residual_divisor);

  Var forward(const Pass& pass, const Var& x, const Var& residual) override;
  void visit(const ParameterVisitor& visitor) override;
  int64_t matrix_elements() const override;
  int64_t pair_elements() const override { return 2 * heads_ * head_width_; }
  AttentionPattern pattern() const override { return pattern_; }
  const BlockContext* context() const override { return &context_; }
  void set_context(const BlockContext& context) override;

 private:
  const RopeTable& rope_table(int64_t positions, Dtype dtype);
  // Appends keys and values to the block's cache and returns the cached and new ones as views.
  std::pair<Tensor, Tensor> with_cache(BlockState& state, const Tensor& keys,
                                       const Tensor& values) const;

  int64_t heads_;
  int64_t key_value_heads_;
  int64_t head_width_;
  AttentionPattern pattern_;
  BlockContext context_;
  bool uses_rope_;
  bool qk_norm_;
  double norm_eps_;
  RopeOptions rope_options_;
  RopeTable rope_table_;
  Parameter qkv_, query_norm_, key_norm_, out_;
};

}  // namespace sidewinder
