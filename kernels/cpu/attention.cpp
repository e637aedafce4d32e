// Partition of attention into work items, and the walk over tiles inside one. The arithmetic is in
// isa/attention.cpp; f64 runs the reference loops.
//
// Everything is laid out relative to a document: tiles of queries, blocks of keys and work items
// begin where it begins. So a token's bits do not depend on what else is in the batch.

#include "kernels/cpu/isa/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/ops/attention.h"
#include "kernels/reference/attention.h"

namespace sidewinder {
namespace {

constexpr int64_t kForwardLanesPerItem = 960;
constexpr int64_t kForwardBlockWords = 1 << 16;   // packed keys and values: 256 KiB
constexpr int64_t kBackwardBlockWords = 1 << 17;  // and their gradients: 512 KiB
// Key heads are work items of the backward pass; with fewer than these, keys are split further.
constexpr int64_t kBackwardItems = 4;

constexpr float kNoScore = -1e30F;  // the maximum of lanes that have seen no key
constexpr float kLog2E = 1.44269504088896340736F;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// ---- Documents

struct Document {
  int64_t first_token;
  int64_t tokens;
  int64_t first_key;  // keys of this document are counted from here
  int64_t past;       // keys before the one of the first token; negative if that one is not visible
  int64_t keys() const { return std::max<int64_t>(0, past + tokens); }
};

std::vector<Document> documents_of(const SequenceLayout& layout) {
  std::vector<Document> documents;
  const std::vector<int32_t>& starts = layout.document_starts;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t begin = starts[i];
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : layout.tokens();
    const int64_t first_key = layout.first_key.data<int32_t>()[begin];
    documents.push_back({begin, end - begin, first_key, layout.key_of(begin) - first_key});
  }
  return documents;
}

// ---- Tensors as rows of one key/value head and of its query heads

struct Heads {
  int64_t group;  // query heads of a key/value head
  int64_t kv_head;
};

template <typename T>
HeadRows rows_from(const Tensor& tensor, int64_t token, const Heads& heads, int64_t heads_in_row,
                   int64_t width) {
  const int64_t offset = token * tensor.row_stride() + heads.kv_head * heads_in_row * width;
  return {tensor.data<T>() + offset, tensor.row_stride(), heads_in_row, width};
}
HeadRows rows_of(const Tensor& tensor, int64_t token, const Heads& heads, int64_t heads_in_row,
                 int64_t width) {
  return tensor.dtype() == Dtype::bf16
             ? rows_from<Bf16>(tensor, token, heads, heads_in_row, width)
             : rows_from<float>(tensor, token, heads, heads_in_row, width);
}
// Rows of q, out, dout, dq: lanes of the tiles.
HeadRows query_rows(const Tensor& tensor, const Document& document, const Heads& heads) {
  return rows_of(tensor, document.first_token, heads, heads.group, tensor.size(2));
}
HeadRows statistic_rows(const Tensor& tensor, const Document& document, const Heads& heads) {
  return rows_of(tensor, document.first_token, heads, heads.group, 1);
}
// Rows of k, v, dk, dv.
HeadRows key_rows(const Tensor& tensor, const Document& document, const Heads& heads) {
  return rows_of(tensor, document.first_key, heads, 1, tensor.size(2));
}

// ---- Work space: pieces of one tensor

class Workspace {
 public:
  explicit Workspace(int64_t floats) : memory_(Tensor::empty({floats}, Dtype::f32)) {}
  float* take(int64_t floats) {
    float* const piece = memory_.data<float>() + used_;
    used_ += padded(floats);
    SIDEWINDER_ASSERT(used_ <= memory_.count());
    return piece;
  }
  static int64_t padded(int64_t floats) { return round_up(floats, 16); }

 private:
  Tensor memory_;
  int64_t used_ = 0;
};

// ---- Sizes that all items of a call share

struct Sizes {
  const AttentionIsa& isa;
  const AttentionFunctions& functions;
  int64_t pair;
  int64_t width, value_width;
  int64_t width_stride, value_stride;  // padded to whole vectors
  int64_t steps, value_steps;          // words of a packed row

  Sizes(const Tensor& q, const Tensor& v)
      : isa(attention_kernels_for_isa()),
        functions(q.dtype() == Dtype::bf16 ? isa.bf16 : isa.f32),
        pair(functions.pair),
        width(q.size(2)),
        value_width(v.size(2)),
        width_stride(round_up(width, isa.vector_lanes)),
        value_stride(round_up(value_width, isa.vector_lanes)),
        steps((width + pair - 1) / pair),
        value_steps((value_width + pair - 1) / pair) {}
};

// Keys that are packed at once, so that they stay in the cache while all queries go over them.
int64_t keys_per_block(int64_t words, int64_t words_per_key) {
  return std::max<int64_t>(96, words / words_per_key / 96 * 96);
}
// Distance of two steps of transposed keys: not a multiple of the page, which would map them all to
// one set of the cache.
int64_t transposed_stride(int64_t keys) { return round_up(keys, 16) + 16; }

// ---- Tiles

// Lanes first_lane … first_lane + lanes − 1 of a document, key indices relative to the document.
TileKeys visible_keys(const Document& document, AttentionPattern pattern, int64_t group,
                      int64_t first_lane, int64_t lanes, int64_t vector_lanes) {
  constexpr int32_t kLowest = std::numeric_limits<int32_t>::min();
  constexpr int32_t kHighest = std::numeric_limits<int32_t>::max();
  TileKeys visible;
  visible.vectors = (lanes + vector_lanes - 1) / vector_lanes;
  for (int64_t v = 0; v < visible.vectors; ++v) {
    KeyRange any = {kHighest, 0};
    KeyRange all = {0, kHighest};
    for (int64_t lane = v * vector_lanes; lane < (v + 1) * vector_lanes; ++lane) {
      if (lane >= lanes) {
        visible.first[lane] = kLowest;
        visible.last[lane] = kHighest;
        continue;
      }
      const int64_t self = document.past + (first_lane + lane) / group;
      const auto first = static_cast<int32_t>(pattern.first_visible(0, self));
      const auto last = static_cast<int32_t>(self);
      visible.first[lane] = first;
      visible.last[lane] = last;
      all = {std::max(all.begin, first), std::min(all.end, last + 1)};
      if (first <= last) any = {std::min(any.begin, first), std::max(any.end, last + 1)};
    }
    if (any.begin > any.end) any = {0, 0};
    visible.any[v] = any;
    visible.all[v] = all;
  }
  return visible;
}

// Keys that a tile has to visit, relative to the document.
KeyRange tile_span(const Document& document, AttentionPattern pattern, int64_t group,
                   int64_t first_lane, int64_t lanes) {
  const AttentionPattern::Span span = pattern.key_span(
      document.past + first_lane / group, document.past + (first_lane + lanes - 1) / group);
  const auto begin = static_cast<int32_t>(span.begin & ~int64_t{1});
  const auto end = static_cast<int32_t>(round_up(std::max<int64_t>(0, span.end), 2));
  return {std::min(begin, end), end};
}

KeyRange intersection(KeyRange a, KeyRange b) {
  const int32_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}
bool is_empty(KeyRange range) { return range.begin >= range.end; }

// ---- Forward

struct ForwardItem {
  const Document* document;
  Heads heads;
  int64_t first_lane;
  int64_t lanes;
};

class Forward {
 public:
  Forward(const AttentionArgs& args, const Sizes& sizes, const ForwardItem& item)
      : args_(args),
        sizes_(sizes),
        item_(item),
        document_(*item.document),
        tile_lanes_(sizes.isa.forward_lanes),
        num_tiles_((item.lanes + tile_lanes_ - 1) / tile_lanes_),
        block_(std::min(
            keys_per_block(kForwardBlockWords, sizes.steps + sizes.value_stride / sizes.pair),
            round_up(document_.keys(), 2))),
        key_stride_(transposed_stride(block_)),
        workspace_(floats()) {
    keys_ = workspace_.take(sizes.steps * key_stride_);
    values_ = workspace_.take(block_ / sizes.pair * sizes.value_stride);
    const HeadRows queries = query_rows(args.q, document_, item.heads);
    for (int64_t i = 0; i < num_tiles_; ++i) {
      Tile tile;
      tile.first_lane = item.first_lane + i * tile_lanes_;
      tile.lanes = std::min(tile_lanes_, item.first_lane + item.lanes - tile.first_lane);
      tile.span = tile_span(document_, args.pattern, item.heads.group, tile.first_lane, tile.lanes);
      tile.visible = visible_keys(document_, args.pattern, item.heads.group, tile.first_lane,
                                  tile.lanes, sizes.isa.vector_lanes);
      tile.queries = workspace_.take(sizes.steps * tile_lanes_);
      tile.out = workspace_.take(sizes.value_stride * tile_lanes_);
      tile.largest = workspace_.take(tile_lanes_);
      tile.sum = workspace_.take(tile_lanes_);
      sizes.functions.pack_transposed(queries, tile.first_lane, tile.lanes, tile_lanes_,
                                      tile.queries, tile_lanes_);
      if (args.scale < 0) negate(tile.queries, sizes.steps * tile_lanes_);
      std::fill_n(tile.out, sizes.value_stride * tile_lanes_, 0.0F);
      std::fill_n(tile.largest, tile_lanes_, kNoScore);
      std::fill_n(tile.sum, tile_lanes_, 0.0F);
      tiles_.push_back(tile);
    }
  }

  void run() {
    const int32_t end = tiles_.back().span.end;
    for (int32_t begin = tiles_.front().span.begin; begin < end;
         begin += static_cast<int32_t>(block_)) {
      visit({begin, static_cast<int32_t>(std::min<int64_t>(begin + block_, end))});
    }
    for (const Tile& tile : tiles_) store(tile);
  }

 private:
  struct Tile {
    int64_t first_lane, lanes;
    KeyRange span;
    TileKeys visible;
    float *queries, *out, *largest, *sum;
  };

  int64_t floats() const {
    const auto padded = &Workspace::padded;
    const int64_t tile = padded(sizes_.steps * tile_lanes_) +
                         padded(sizes_.value_stride * tile_lanes_) + 2 * padded(tile_lanes_);
    return padded(sizes_.steps * key_stride_) + padded(block_ / sizes_.pair * sizes_.value_stride) +
           num_tiles_ * tile;
  }

  // Changes the sign of packed words, so that the scale need not be negative.
  void negate(float* words, int64_t count) const {
    const uint32_t signs = sizes_.pair == 2 ? 0x80008000U : 0x80000000U;
    for (int64_t i = 0; i < count; ++i) {
      uint32_t word;
      std::memcpy(&word, words + i, sizeof word);
      word ^= signs;
      std::memcpy(words + i, &word, sizeof word);
    }
  }

  void visit(KeyRange block) {
    const int64_t count = std::min<int64_t>(block.end, document_.keys()) - block.begin;
    const int64_t padded = block.end - block.begin;
    sizes_.functions.pack_transposed(key_rows(args_.k, document_, item_.heads), block.begin, count,
                                     round_up(padded, sizes_.isa.vector_lanes), keys_, key_stride_);
    sizes_.functions.pack_pairs(key_rows(args_.v, document_, item_.heads), block.begin, count,
                                padded, values_);
    for (const Tile& tile : tiles_) {
      const KeyRange range = intersection(tile.span, block);
      if (is_empty(range)) continue;
      AttentionForwardTile work{};
      work.visible = &tile.visible;
      work.block = range;
      work.origin = block.begin;
      work.queries = tile.queries;
      work.keys = keys_;
      work.key_stride = key_stride_;
      work.values = values_;
      work.width = sizes_.width;
      work.value_width = sizes_.value_width;
      work.score_scale = std::abs(args_.scale) * kLog2E;
      work.out = tile.out;
      work.largest = tile.largest;
      work.sum = tile.sum;
      sizes_.functions.forward(work);
    }
  }

  void store(const Tile& tile) const {
    const HeadRows lse = statistic_rows(args_.lse, document_, item_.heads);
    for (int64_t i = 0; i < tile.lanes; ++i) {
      const int64_t lane = tile.first_lane + i;
      float& result =
          static_cast<float*>(lse.data)[lane / lse.heads * lse.token_stride + lane % lse.heads];
      const float sum = tile.sum[i];
      result = sum == 0 ? -std::numeric_limits<float>::infinity()
                        : tile.largest[i] * std::abs(args_.scale) + std::log(sum);
      tile.sum[i] = sum == 0 ? 0.0F : 1.0F / sum;
    }
    sizes_.functions.store_columns(tile.out, tile_lanes_, tile.sum,
                                   query_rows(args_.out, document_, item_.heads), tile.first_lane,
                                   tile.lanes);
  }

  const AttentionArgs& args_;
  const Sizes& sizes_;
  const ForwardItem& item_;
  const Document& document_;
  int64_t tile_lanes_;
  int64_t num_tiles_;
  int64_t block_;
  int64_t key_stride_;
  Workspace workspace_;
  float* keys_;
  float* values_;
  std::vector<Tile> tiles_;
};

void attention_vectors(const AttentionArgs& args) {
  const Sizes sizes(args.q, args.v);
  const std::vector<Document> documents = documents_of(args.layout);
  const int64_t kv_heads = args.k.size(1);
  const int64_t group = args.q.size(1) / kv_heads;
  const int64_t lanes_per_item =
      std::max<int64_t>(1, kForwardLanesPerItem / sizes.isa.forward_lanes) *
      sizes.isa.forward_lanes;
  std::vector<ForwardItem> items;
  for (const Document& document : documents) {
    const int64_t lanes = document.tokens * group;
    for (int64_t first = 0; first < lanes; first += lanes_per_item) {
      for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
        items.push_back(
            {&document, {group, kv_head}, first, std::min(lanes_per_item, lanes - first)});
      }
    }
  }
  parallel_for(static_cast<int64_t>(items.size()),
               [&](int64_t i) { Forward(args, sizes, items[static_cast<size_t>(i)]).run(); });
}

// ---- Backward
//
// A work item is a range of the keys of one document and key/value head. It goes over blocks of
// these keys, and for each over the tiles of queries that see it, so that key and value gradients
// stay in the cache and are complete after the block. Query gradients of a tile are complete after
// the last block that it sees; if the keys are split over items, they are kept per item and summed
// in the order of the keys.

struct BackwardItem {
  const Document* document;
  Heads heads;
  KeyRange keys;         // even bounds
  int64_t partial = -1;  // where the query gradients of this item begin, if keys are split
};

class Backward {
 public:
  Backward(const AttentionBackwardArgs& args, const Sizes& sizes, const BackwardItem& item,
           float* partial)
      : args_(args),
        sizes_(sizes),
        item_(item),
        document_(*item.document),
        lanes_(document_.tokens * item.heads.group),
        tile_lanes_(sizes.isa.backward_lanes),
        num_tiles_((lanes_ + tile_lanes_ - 1) / tile_lanes_),
        tile_floats_(sizes.width_stride * tile_lanes_),
        block_(std::min<int64_t>(block_keys(sizes), item.keys.end - item.keys.begin)),
        key_stride_(transposed_stride(block_)),
        partial_(partial),
        slots_(partial == nullptr ? tiles_of_a_block() : num_tiles_),
        workspace_(floats()) {
    keys_ = workspace_.take(sizes.steps * key_stride_);
    key_pairs_ = workspace_.take(block_ / sizes.pair * sizes.width_stride);
    values_ = workspace_.take(sizes.value_steps * key_stride_);
    dkey_ = workspace_.take(block_ * sizes.width_stride);
    dvalue_ = workspace_.take(block_ * sizes.value_stride);
    queries_ = workspace_.take(sizes.steps * tile_lanes_);
    query_pairs_ = workspace_.take(tile_lanes_ / sizes.pair * sizes.width_stride);
    dout_ = workspace_.take(sizes.value_steps * tile_lanes_);
    dout_pairs_ = workspace_.take(tile_lanes_ / sizes.pair * sizes.value_stride);
    lse_ = workspace_.take(tile_lanes_);
    scale_ = workspace_.take(tile_lanes_);
    delta_ = workspace_.take(num_tiles_ * tile_lanes_);
    dquery_ = partial == nullptr ? workspace_.take(slots_ * tile_floats_) : partial;
    std::fill_n(scale_, tile_lanes_, args.scale);
  }

  static int64_t block_keys(const Sizes& sizes) {
    return keys_per_block(kBackwardBlockWords, sizes.steps + sizes.value_steps +
                                                   sizes.width_stride / sizes.pair +
                                                   sizes.width_stride + sizes.value_stride);
  }

  void run() {
    int64_t without_keys = 0;
    while (without_keys < num_tiles_ && is_empty(span_of(without_keys))) ++without_keys;
    if (partial_ == nullptr) finish_tiles(without_keys);
    for (int32_t begin = item_.keys.begin; begin < item_.keys.end;
         begin += static_cast<int32_t>(block_)) {
      visit({begin, static_cast<int32_t>(std::min<int64_t>(begin + block_, item_.keys.end))});
    }
    if (partial_ == nullptr) finish_tiles(num_tiles_);
  }

 private:
  int64_t lanes_of(int64_t tile) const {
    return std::min(tile_lanes_, lanes_ - tile * tile_lanes_);
  }
  KeyRange span_of(int64_t tile) const {
    return tile_span(document_, args_.pattern, item_.heads.group, tile * tile_lanes_,
                     lanes_of(tile));
  }

  // The most tiles that see keys of one block. Bounds of spans grow with the tile.
  int64_t tiles_of_a_block() const {
    int64_t most = 1;
    int64_t first = 0;
    int64_t end = 0;
    for (int64_t begin = item_.keys.begin; begin < item_.keys.end; begin += block_) {
      while (first < num_tiles_ && span_of(first).end <= begin) ++first;
      while (end < num_tiles_ && span_of(end).begin < begin + block_) ++end;
      most = std::max(most, end - first);
    }
    return most;
  }

  int64_t floats() const {
    const auto padded = &Workspace::padded;
    return padded(sizes_.steps * key_stride_) + padded(block_ / sizes_.pair * sizes_.width_stride) +
           padded(sizes_.value_steps * key_stride_) + padded(block_ * sizes_.width_stride) +
           padded(block_ * sizes_.value_stride) + padded(sizes_.steps * tile_lanes_) +
           padded(tile_lanes_ / sizes_.pair * sizes_.width_stride) +
           padded(sizes_.value_steps * tile_lanes_) +
           padded(tile_lanes_ / sizes_.pair * sizes_.value_stride) + 2 * padded(tile_lanes_) +
           padded(num_tiles_ * tile_lanes_) +
           (partial_ == nullptr ? padded(slots_ * tile_floats_) : 0);
  }

  float* dquery_of(int64_t tile) const { return dquery_ + tile % slots_ * tile_floats_; }

  void visit(KeyRange block) {
    pack_keys(block);
    const int64_t keys = block.end - block.begin;
    std::fill_n(dkey_, keys * sizes_.width_stride, 0.0F);
    std::fill_n(dvalue_, keys * sizes_.value_stride, 0.0F);
    for (int64_t tile = next_unfinished_; tile < num_tiles_; ++tile) {
      const KeyRange span = span_of(tile);
      const KeyRange range = intersection(span, block);
      if (is_empty(range)) {
        if (span.begin >= block.end) break;
        continue;
      }
      begin_tiles(tile + 1);
      visit_tile(tile, range, block);
    }
    const int64_t count = std::min<int64_t>(block.end, document_.keys()) - block.begin;
    sizes_.functions.store_rows(dkey_, args_.scale, key_rows(args_.dk, document_, item_.heads),
                                block.begin, count);
    sizes_.functions.store_rows(dvalue_, 1.0F, key_rows(args_.dv, document_, item_.heads),
                                block.begin, count);
    if (partial_ == nullptr) {
      int64_t end = next_unfinished_;
      while (end < num_tiles_ && span_of(end).end <= block.end) ++end;
      finish_tiles(end);
    }
  }

  void pack_keys(KeyRange block) {
    const AttentionFunctions& functions = sizes_.functions;
    const int64_t count = std::min<int64_t>(block.end, document_.keys()) - block.begin;
    const int64_t padded = block.end - block.begin;
    const int64_t padded_lanes = round_up(padded, sizes_.isa.vector_lanes);
    const HeadRows keys = key_rows(args_.k, document_, item_.heads);
    functions.pack_transposed(keys, block.begin, count, padded_lanes, keys_, key_stride_);
    functions.pack_pairs(keys, block.begin, count, padded, key_pairs_);
    functions.pack_transposed(key_rows(args_.v, document_, item_.heads), block.begin, count,
                              padded_lanes, values_, key_stride_);
  }

  // Clears the query gradients, and forms Σ dout·out, of tiles up to `end` that are new.
  void begin_tiles(int64_t end) {
    for (; next_new_ < end; ++next_new_) {
      std::fill_n(dquery_of(next_new_), tile_floats_, 0.0F);
      float* delta = delta_ + next_new_ * tile_lanes_;
      std::fill_n(delta, tile_lanes_, 0.0F);
      sizes_.functions.row_products(query_rows(args_.out, document_, item_.heads),
                                    query_rows(args_.dout, document_, item_.heads),
                                    next_new_ * tile_lanes_, lanes_of(next_new_), delta);
    }
  }

  // Writes the query gradients of tiles up to `end`.
  void finish_tiles(int64_t end) {
    begin_tiles(end);
    for (; next_unfinished_ < end; ++next_unfinished_) {
      sizes_.functions.store_columns(dquery_of(next_unfinished_), tile_lanes_, scale_,
                                     query_rows(args_.dq, document_, item_.heads),
                                     next_unfinished_ * tile_lanes_, lanes_of(next_unfinished_));
    }
  }

  void visit_tile(int64_t tile, KeyRange range, KeyRange block) {
    const AttentionFunctions& functions = sizes_.functions;
    const int64_t first = tile * tile_lanes_;
    const int64_t lanes = lanes_of(tile);
    const HeadRows queries = query_rows(args_.q, document_, item_.heads);
    const HeadRows dout = query_rows(args_.dout, document_, item_.heads);
    functions.pack_transposed(queries, first, lanes, tile_lanes_, queries_, tile_lanes_);
    functions.pack_pairs(queries, first, lanes, tile_lanes_, query_pairs_);
    functions.pack_transposed(dout, first, lanes, tile_lanes_, dout_, tile_lanes_);
    functions.pack_pairs(dout, first, lanes, tile_lanes_, dout_pairs_);
    const HeadRows lse = statistic_rows(args_.lse, document_, item_.heads);
    std::fill_n(lse_, tile_lanes_, 0.0F);
    for (int64_t i = 0; i < lanes; ++i) {
      const int64_t lane = first + i;
      lse_[i] = kLog2E * static_cast<const float*>(
                             lse.data)[lane / lse.heads * lse.token_stride + lane % lse.heads];
    }
    const TileKeys visible = visible_keys(document_, args_.pattern, item_.heads.group, first, lanes,
                                          sizes_.isa.vector_lanes);
    AttentionBackwardTile work{};
    work.visible = &visible;
    work.block = range;
    work.origin = block.begin;
    work.queries = queries_;
    work.query_pairs = query_pairs_;
    work.dout = dout_;
    work.dout_pairs = dout_pairs_;
    work.keys = keys_;
    work.key_pairs = key_pairs_;
    work.values = values_;
    work.key_stride = key_stride_;
    work.width = sizes_.width;
    work.value_width = sizes_.value_width;
    work.score_scale = args_.scale * kLog2E;
    work.lse = lse_;
    work.delta = delta_ + first;
    work.dquery = dquery_of(tile);
    work.dkey = dkey_;
    work.dvalue = dvalue_;
    functions.backward(work);
  }

  const AttentionBackwardArgs& args_;
  const Sizes& sizes_;
  const BackwardItem& item_;
  const Document& document_;
  int64_t lanes_;
  int64_t tile_lanes_;
  int64_t num_tiles_;
  int64_t tile_floats_;
  int64_t block_;
  int64_t key_stride_;
  float* partial_;
  int64_t slots_;  // tiles whose query gradients are held at once
  Workspace workspace_;
  float *keys_, *key_pairs_, *values_, *dkey_, *dvalue_;
  float *queries_, *query_pairs_, *dout_, *dout_pairs_;
  float *lse_, *scale_, *delta_, *dquery_;
  int64_t next_new_ = 0;
  int64_t next_unfinished_ = 0;
};

// Bounds of the ranges into which the keys of a document are split, of about equal work.
std::vector<int32_t> split_keys(const Document& document, AttentionPattern pattern, int64_t block,
                                int64_t kv_heads) {
  const int64_t keys = round_up(document.keys(), 2);
  const int64_t blocks = (keys + block - 1) / block;
  const int64_t splits = std::min(blocks, (kBackwardItems + kv_heads - 1) / kv_heads);
  const auto queries_of = [&](int64_t key) {
    const int64_t seen = document.keys() - std::max(key, document.past);
    return pattern.window == 0 ? seen : std::min(seen, pattern.window);
  };
  int64_t total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += queries_of(b * block);
  std::vector<int32_t> bounds = {0};
  int64_t work = 0;
  for (int64_t b = 0; b + 1 < blocks; ++b) {
    work += queries_of(b * block);
    const auto split = static_cast<int64_t>(bounds.size());
    if (work * splits >= total * split && split < splits) {
      bounds.push_back(static_cast<int32_t>((b + 1) * block));
    }
  }
  bounds.push_back(static_cast<int32_t>(keys));
  return bounds;
}

// Zeroes the gradients of keys that belong to no document.
void clear_unused_keys(const AttentionBackwardArgs& args, const std::vector<Document>& documents) {
  const auto clear = [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    args.dk.slice_rows(begin, end).fill_zero();
    args.dv.slice_rows(begin, end).fill_zero();
  };
  int64_t next = 0;
  for (const Document& document : documents) {
    clear(next, std::min(document.first_key, args.layout.keys()));
    next = document.first_key + document.keys();
  }
  clear(next, args.layout.keys());
}

// The query gradients of a document whose keys were split: the sums over items in order.
void sum_partials(const AttentionBackwardArgs& args, const Sizes& sizes,
                  const std::vector<const BackwardItem*>& items, const float* partials,
                  int64_t tile) {
  const BackwardItem& item = *items.front();
  const int64_t tile_lanes = sizes.isa.backward_lanes;
  const int64_t tile_floats = sizes.width_stride * tile_lanes;
  const int64_t first = tile * tile_lanes;
  const int64_t lanes = std::min(tile_lanes, item.document->tokens * item.heads.group - first);
  const KeyRange span = tile_span(*item.document, args.pattern, item.heads.group, first, lanes);
  std::vector<float> sum(static_cast<size_t>(tile_floats), 0.0F);
  for (const BackwardItem* part : items) {
    if (is_empty(intersection(span, part->keys))) continue;
    const float* dquery = partials + part->partial + tile * tile_floats;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += dquery[i];
  }
  const std::vector<float> scale(static_cast<size_t>(tile_lanes), args.scale);
  sizes.functions.store_columns(sum.data(), tile_lanes, scale.data(),
                                query_rows(args.dq, *item.document, item.heads), first, lanes);
}

void attention_backward_vectors(const AttentionBackwardArgs& args) {
  const Sizes sizes(args.q, args.v);
  const std::vector<Document> documents = documents_of(args.layout);
  const int64_t kv_heads = args.k.size(1);
  const int64_t group = args.q.size(1) / kv_heads;
  const int64_t tile_lanes = sizes.isa.backward_lanes;

  std::vector<BackwardItem> items;
  struct SplitTile {
    size_t first_item, num_items;
    int64_t tile;
  };
  std::vector<SplitTile> split_tiles;
  int64_t partial_floats = 0;
  for (const Document& document : documents) {
    const int64_t tiles = (document.tokens * group + tile_lanes - 1) / tile_lanes;
    const std::vector<int32_t> bounds =
        split_keys(document, args.pattern, Backward::block_keys(sizes), kv_heads);
    const size_t splits = bounds.size() - 1;
    for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      for (size_t i = 0; i < splits; ++i) {
        BackwardItem item{&document, {group, kv_head}, {bounds[i], bounds[i + 1]}};
        if (splits > 1) {
          item.partial = partial_floats;
          partial_floats += tiles * sizes.width_stride * tile_lanes;
        }
        items.push_back(item);
      }
      for (int64_t tile = 0; splits > 1 && tile < tiles; ++tile) {
        split_tiles.push_back({items.size() - splits, splits, tile});
      }
    }
  }
  const Tensor partials = Tensor::empty({partial_floats}, Dtype::f32);
  clear_unused_keys(args, documents);
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i) {
    const BackwardItem& item = items[static_cast<size_t>(i)];
    float* partial = item.partial < 0 ? nullptr : partials.data<float>() + item.partial;
    Backward(args, sizes, item, partial).run();
  });
  parallel_for(static_cast<int64_t>(split_tiles.size()), [&](int64_t i) {
    const SplitTile& tile = split_tiles[static_cast<size_t>(i)];
    std::vector<const BackwardItem*> parts;
    for (size_t part = 0; part < tile.num_items; ++part) {
      parts.push_back(&items[tile.first_item + part]);
    }
    sum_partials(args, sizes, parts, partials.data<float>(), tile.tile);
  });
}

// ---- f64

reference::Rows<double> f64_rows(const Tensor& tensor) {
  return {tensor.data<double>(), tensor.row_stride()};
}
reference::Rows<const double> const_f64_rows(const Tensor& tensor) {
  return {tensor.data<double>(), tensor.row_stride()};
}

template <typename Args>
reference::AttentionProblem problem_of(const Args& args) {
  return {args.layout,    args.pattern,   static_cast<double>(args.scale),
          args.q.size(1), args.k.size(1), args.q.size(2),
          args.v.size(2)};
}

void attention_f64(const AttentionArgs& args) {
  const reference::AttentionProblem problem = problem_of(args);
  const reference::AttentionTensors<double> tensors = {
      f64_rows(args.out), f64_rows(args.lse), const_f64_rows(args.q), const_f64_rows(args.k),
      const_f64_rows(args.v)};
  parallel_for(problem.heads,
               [&](int64_t head) { reference::attention_head(problem, tensors, head); });
}

void attention_backward_f64(const AttentionBackwardArgs& args) {
  const reference::AttentionProblem problem = problem_of(args);
  const reference::AttentionGradientTensors<double> tensors = {
      f64_rows(args.dq),         f64_rows(args.dk),        f64_rows(args.dv),
      const_f64_rows(args.dout), const_f64_rows(args.q),   const_f64_rows(args.k),
      const_f64_rows(args.v),    const_f64_rows(args.out), const_f64_rows(args.lse)};
  args.dk.fill_zero();
  args.dv.fill_zero();
  parallel_for(problem.kv_heads, [&](int64_t kv_head) {
    reference::attention_backward_head(problem, tensors, kv_head);
  });
}

}  // namespace

void cpu::attention(Stream, const AttentionArgs& args) {
  if (args.q.dtype() == Dtype::f64) return attention_f64(args);
  attention_vectors(args);
}

void cpu::attention_backward(Stream, const AttentionBackwardArgs& args) {
  if (args.q.dtype() == Dtype::f64) return attention_backward_f64(args);
  attention_backward_vectors(args);
}

}  // namespace sidewinder
