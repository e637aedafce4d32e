#include "model/layers/attention.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/math/alibi.h"

namespace sidewinder {

Attention::Attention(const std::string& name, int64_t width, const BlockOptions& options,
                     double norm_eps, const Initializer& initializer, double residual_divisor)
    : heads_(options.heads != 0 ? options.heads : width / options.head_width),
      key_value_heads_(options.key_value_heads != 0 ? options.key_value_heads : heads_),
      head_width_(options.head_width),
      name_(name),
      options_(options),
      pattern_(attention_pattern(options, name)),
      position_(options.position),
      qk_norm_(options.qk_norm),
      norm_eps_(norm_eps) {
  context_.window = options.window;
  context_.rope = rope_options(options);
  if (position_ == PositionKind::rope) check_rope(context_.rope);
  if (position_ == PositionKind::alibi) {
    const std::vector<double> slopes = alibi_slopes(heads_);
    slopes_ = Tensor::from<float>({heads_}, {slopes.begin(), slopes.end()});
  }
  qkv_ = initializer.linear(name + ".qkv.weight", (heads_ + 2 * key_value_heads_) * head_width_,
                            width);
  if (qk_norm_) {
    query_norm_ =
        initializer.constant(name + ".query_norm.weight", ParameterRole::norm, {head_width_}, 1.0);
    key_norm_ =
        initializer.constant(name + ".key_norm.weight", ParameterRole::norm, {head_width_}, 1.0);
  }
  out_ =
      initializer.linear(name + ".out_proj.weight", width, heads_ * head_width_, residual_divisor);
}

void Attention::set_context(const BlockContext& context) {
  SIDEWINDER_REQUIRE(context.window >= 0,
                     "window {} is negative; use the number of visible keys, or 0 for all",
                     context.window);
  if (position_ == PositionKind::rope) {
    SIDEWINDER_REQUIRE(context.rope.head_width == head_width_,
                       "rotary options are for heads {} wide but the heads are {} wide; start "
                       "from the block's own context",
                       context.rope.head_width, head_width_);
    check_rope(context.rope);
  }
  BlockOptions changed = options_;
  changed.window = context.window;
  const AttentionPattern pattern = attention_pattern(changed, name_);
  const std::string mistake = pattern.mistake();
  SIDEWINDER_REQUIRE(mistake.empty(), "{}: {}", name_, mistake);
  options_ = changed;
  context_ = context;
  pattern_ = pattern;
}

Var Attention::forward(const Pass& pass, const Norm& norm, const Var& x) {
  const SequenceLayout& layout = *pass.attention_layout;
  const int64_t tokens = layout.tokens();
  const std::array<int64_t, 3> widths = {heads_ * head_width_, key_value_heads_ * head_width_,
                                         key_value_heads_ * head_width_};
  std::vector<Var> qkv = split(normed_linear(pass, norm, x, qkv_), widths);
  Var q = reshape(qkv[0], {tokens, heads_, head_width_});
  Var k = reshape(qkv[1], {tokens, key_value_heads_, head_width_});
  Var v = reshape(qkv[2], {tokens, key_value_heads_, head_width_});
  if (qk_norm_) {
    q = rms_norm(q, pass(query_norm_), norm_eps_, pass.dtype);
    k = rms_norm(k, pass(key_norm_), norm_eps_, pass.dtype);
  }
  const bool turns = position_ == PositionKind::rope;
  // Keys are cached before they are turned where the frequencies of the next token may be others.
  const bool turns_cache = turns && pass.state != nullptr && rope_depends_on_length(context_.rope);
  const bool counts_cached_tokens = counts_cached();
  SIDEWINDER_REQUIRE(!counts_cached_tokens || pass.tape == nullptr,
                     "{}: rope_positions = \"cache\" is for inference; train with \"text\"", name_);
  Tensor far_queries;  // as global keys see them
  RopeTable table;
  if (turns) {
    const auto table_of = [&](int64_t positions, int64_t for_length) {
      return pass.rope_tables->of(context_.rope, positions, for_length, accumulator_of(pass.dtype));
    };
    const int32_t* position = layout.position.data<int32_t>();
    const int64_t end = tokens == 0 ? 0 : *std::max_element(position, position + tokens) + 1;
    // Not the longest document at hand: what a row holds must not change what its length means.
    int64_t length = std::max({end, layout.row_length, pass.rope_length});
    if (counts_cached_tokens) {
      length = std::min(length, cached_tokens());
      const Tensor places = places_in_cache(pass, layout);
      const int32_t* place = places.data<int32_t>();
      const int64_t places_end = tokens == 0 ? 0 : *std::max_element(place, place + tokens) + 1;
      far_queries = rope(q, places, table_of(places_end, length)).value();
    }
    Tensor positions = layout.position;
    if (pass.state != nullptr && !turns_cache) {
      // A table of the tokens at hand alone: one from position 0 on would grow with the sequence.
      table =
          ops::rope_table(context_.rope, tokens, accumulator_of(pass.dtype), length, end - tokens);
      positions = SequenceLayout::unpacked(1, tokens).position;
    } else {
      table = table_of(end, length);
    }
    q = rope_in_place(q, positions, table);
    if (!turns_cache) k = rope_in_place(k, positions, table);
  }
  if (pass.state != nullptr) {
    auto [keys, values] = with_cache(*pass.state, k.value(), v.value());
    k = Var(keys);
    v = Var(values);
    if (turns_cache) k = rope(k, cached_positions(layout, keys.size(0)), table);
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width_));
  // The cache has what this block may still see, so the layout's `past` is this block's own.
  const SequenceLayout* used = &layout;
  SequenceLayout continued;
  if (pass.state != nullptr) {
    const int64_t past = k.value().size(0) - tokens;
    continued = SequenceLayout::continuation(1, tokens, 0, past, past);
    used = &continued;
  } else if (pass.before != nullptr && pass.before->keys.defined()) {
    continued = with_lanes(*pass.before, layout, k, v);
    used = &continued;
  }
  if (pass.after != nullptr) keep_for_lanes(*pass.after, *used, k, v);
  if (counts_cached_tokens) {
    q = Var(beside(q.value(), far_queries));
    k = Var(with_global_apart(k.value(), *used));
  }
  Var mixed = attention(q, k, v, *used, pattern_, scale, slopes_);
  mixed = reshape(mixed, {tokens, heads_ * head_width_});
  return linear_add(mixed, pass(out_), x);
}

// Xiao et al. 2023: the place of a query in its cache stays the last one when that is full. Near
// keys keep their distances to it; only those of global keys differ from the text's.
Tensor Attention::places_in_cache(const Pass& pass, const SequenceLayout& layout) const {
  Tensor places = Tensor::empty({layout.tokens()}, Dtype::i32);
  for (int64_t t = 0; t < layout.tokens(); ++t) {
    const int32_t position = layout.position.data<int32_t>()[t];
    const bool goes_on = pass.state != nullptr || layout.is_carried(t / layout.row_length);
    const int64_t before =
        goes_on ? position : layout.key_of(t) - layout.first_key.data<int32_t>()[t];
    const int64_t forgotten = std::max<int64_t>(0, before + 1 - cached_tokens());
    places.data<int32_t>()[t] = position - static_cast<int32_t>(forgotten);
  }
  return places;
}

Tensor Attention::beside(const Tensor& near, const Tensor& far) {
  const int64_t heads = near.size(0) * near.size(1);
  const int64_t width = near.size(2);
  Tensor both = Tensor::empty({near.size(0), near.size(1), 2 * width}, near.dtype());
  const Tensor rows = both.reshape({heads, 2 * width});
  const Tensor whole = near.contiguous() ? near : near.clone();  // heads of a wider product
  rows.columns(0, width).copy_from(whole.reshape({heads, width}));
  rows.columns(width, 2 * width).copy_from(far.reshape({heads, width}));
  return both;
}

Tensor Attention::with_global_apart(const Tensor& keys, const SequenceLayout& layout) const {
  const Tensor near = keys.clone();
  const Tensor far = Tensor::zeros(keys.shape(), keys.dtype());
  const std::vector<int32_t>& starts = layout.document_starts;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t next = i + 1 < starts.size() ? starts[i + 1] : layout.tokens();
    const int64_t first = layout.first_key.data<int32_t>()[starts[i]];
    const int64_t end = std::min(first + pattern_.global, layout.key_of(next - 1) + 1);
    if (first >= end) continue;
    far.slice_rows(first, end).copy_from(near.slice_rows(first, end));
    near.slice_rows(first, end).fill_zero();
  }
  return beside(near, far);
}

Tensor Attention::cached_positions(const SequenceLayout& layout, int64_t keys) const {
  Tensor positions = Tensor::empty({keys}, Dtype::i32);
  const int32_t end = layout.position.data<int32_t>()[layout.tokens() - 1] + 1;
  for (int64_t i = 0; i < keys; ++i) {
    positions.data<int32_t>()[i] = end - static_cast<int32_t>(keys - i);
  }
  return positions;
}

SequenceLayout Attention::with_lanes(const LaneState& before, const SequenceLayout& layout,
                                     Var& keys, Var& values) const {
  const int64_t rows = layout.rows;
  const int64_t cache = before.keys.value().size(0) / rows;
  std::vector<RowSpan> spans;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t to = row * (cache + layout.row_length);
    spans.push_back({0, row * cache, to, cache});
    spans.push_back({1, row * layout.row_length, to + cache, layout.row_length});
  }
  SequenceLayout result = layout.with_cache(cache, before.cached);
  keys = gather_rows({before.keys, keys}, spans, result.keys());
  values = gather_rows({before.values, values}, spans, result.keys());
  return result;
}

void Attention::keep_for_lanes(LaneState& after, const SequenceLayout& layout, const Var& keys,
                               const Var& values) const {
  // Keys that close up behind global tokens lose their distance to them, which biases need.
  const bool keeps_all = pattern_.global > 0 && position_ == PositionKind::alibi;
  struct Kept {
    int64_t first, seen;               // keys of the last document of a row
    AttentionPattern::Span forgotten;  // of these
  };
  std::vector<Kept> kept;
  after.cached.clear();
  for (int64_t row = 0; row < layout.rows; ++row) {
    const int64_t last = (row + 1) * layout.row_length - 1;
    Kept of{layout.first_key.data<int32_t>()[last], 0, {0, 0}};
    of.seen = layout.key_of(last) + 1 - of.first;
    if (!keeps_all) of.forgotten = pattern_.forgettable(of.seen);
    kept.push_back(of);
    after.cached.push_back(of.seen - (of.forgotten.end - of.forgotten.begin));
  }
  const int64_t capacity = *std::max_element(after.cached.begin(), after.cached.end());
  std::vector<RowSpan> spans;
  for (size_t row = 0; row < kept.size(); ++row) {
    const auto& [first, seen, forgotten] = kept[row];
    const int64_t to = static_cast<int64_t>(row + 1) * capacity - after.cached[row];
    if (forgotten.begin > 0) spans.push_back({0, first, to, forgotten.begin});
    spans.push_back({0, first + forgotten.end, to + forgotten.begin, seen - forgotten.end});
  }
  after.keys = gather_rows({keys}, spans, layout.rows * capacity);
  after.values = gather_rows({values}, spans, layout.rows * capacity);
}

void Attention::forget(BlockState& state) const {
  // Keys that close up behind global tokens lose their distance to them, which biases and keys that
  // are still to be turned need.
  const bool needs_distances =
      position_ == PositionKind::alibi ||
      (position_ == PositionKind::rope && rope_depends_on_length(context_.rope));
  if (pattern_.global > 0 && needs_distances) return;
  const auto [begin, end] = pattern_.forgettable(state.end_key - state.first_key);
  if (begin == end) return;
  // The keys before take the place of the last ones that go.
  for (const Tensor& rows : {state.keys, state.values}) {
    for (int64_t i = begin - 1; i >= 0; --i) {
      const int64_t from = state.first_key + i;
      const int64_t to = from + end - begin;
      rows.slice_rows(to, to + 1).copy_from(rows.slice_rows(from, from + 1));
    }
  }
  state.first_key += end - begin;
}

std::pair<Tensor, Tensor> Attention::with_cache(BlockState& state, const Tensor& keys,
                                                const Tensor& values) const {
  const int64_t added = keys.size(0);
  const int64_t width = key_value_heads_ * head_width_;
  forget(state);
  const int64_t kept = state.end_key - state.first_key;
  const int64_t capacity = state.keys.defined() ? state.keys.size(0) : 0;
  if (state.end_key + added > capacity) {
    // Twice what is needed, so that moving costs a constant per token.
    const int64_t room = std::max<int64_t>(64, 2 * (kept + added));
    const auto moved = [&](const Tensor& old) {
      Tensor fresh = Tensor::empty({room, width}, keys.dtype());
      if (kept > 0) {
        fresh.slice_rows(0, kept).copy_from(old.slice_rows(state.first_key, state.end_key));
      }
      return fresh;
    };
    state.keys = moved(state.keys);
    state.values = moved(state.values);
    state.first_key = 0;
    state.end_key = kept;
  }
  state.keys.slice_rows(state.end_key, state.end_key + added)
      .copy_from(keys.reshape({added, width}));
  state.values.slice_rows(state.end_key, state.end_key + added)
      .copy_from(values.reshape({added, width}));
  state.end_key += added;
  const int64_t visible = kept + added;
  const Shape shape = {visible, key_value_heads_, head_width_};
  return {state.keys.slice_rows(state.first_key, state.end_key).reshape(shape),
          state.values.slice_rows(state.first_key, state.end_key).reshape(shape)};
}

void Attention::visit(const ParameterVisitor& visitor) {
  visitor(qkv_);
  if (qk_norm_) {
    visitor(query_norm_);
    visitor(key_norm_);
  }
  visitor(out_);
}

int64_t Attention::matrix_elements() const { return qkv_.value().count() + out_.value().count(); }

}  // namespace sidewinder
