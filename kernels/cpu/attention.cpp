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
#include <utility>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/ops/attention.h"
#include "kernels/reference/attention.h"

namespace sidewinder {
namespace {

constexpr int64_t kForwardLanesPerItem = 960;
constexpr int64_t kFewLanes = 4;                  // documents with no more are not worth a tile
constexpr int64_t kForwardBlockWords = 1 << 16;   // packed keys and values: 256 KiB
constexpr int64_t kBackwardBlockWords = 1 << 17;  // and their gradients: 512 KiB
// Key heads are work items of the backward pass; with fewer than these, keys are split further.
constexpr int64_t kBackwardItems = 4;

constexpr int32_t kAnyKey = std::numeric_limits<int32_t>::max();
constexpr float kNoScore = -1e30F;  // the maximum of lanes that have seen no key
constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kLn2 = 0.69314718055994530942F;

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

// Slopes of the bias in base 2 for lanes of a tile.
void lane_slopes(const Tensor& slopes, const Heads& heads, int64_t first_lane, int64_t lanes,
                 float* result) {
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t head = heads.kv_head * heads.group + (first_lane + i) % heads.group;
    result[i] = kLog2E * slopes.data<float>()[head];
  }
}

float& statistic(const HeadRows& rows, int64_t lane) {
  return static_cast<float*>(rows.data)[lane / rows.heads * rows.token_stride + lane % rows.heads];
}
// lse of probabilities that were summed relative to the largest score.
float lse_of(float largest, float sum) {
  return sum == 0 ? -std::numeric_limits<float>::infinity() : largest + std::log(sum);
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

KeyRange intersection(KeyRange a, KeyRange b) {
  const int32_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}
bool is_empty(KeyRange range) { return range.begin >= range.end; }

struct TileRange {
  int64_t begin, end;
};

// The queries of one document and key/value head, cut into tiles of lanes.
class QueryTiles {
 public:
  QueryTiles(const Document& document, AttentionPattern pattern, int64_t group, int64_t tile_lanes)
      : document_(document),
        pattern_(pattern),
        group_(group),
        tile_lanes_(tile_lanes),
        lanes_(document.tokens * group) {}

  int64_t count() const { return (lanes_ + tile_lanes_ - 1) / tile_lanes_; }
  int64_t first_lane(int64_t tile) const { return tile * tile_lanes_; }
  int64_t lanes(int64_t tile) const { return std::min(tile_lanes_, lanes_ - first_lane(tile)); }

  // Keys that a tile has to visit, relative to the document; even bounds.
  KeyRange span(int64_t tile) const {
    const int64_t first = first_lane(tile);
    const AttentionPattern::Span span = pattern_.key_span(
        document_.past + first / group_, document_.past + (first + lanes(tile) - 1) / group_);
    const auto begin = static_cast<int32_t>(span.begin & ~int64_t{1});
    const auto end = static_cast<int32_t>(round_up(std::max<int64_t>(0, span.end), 2));
    return {std::min(begin, end), end};
  }

  // The tiles that visit some key of `keys`. Bounds of spans grow with the tile.
  TileRange seeing(KeyRange keys) const {
    const auto first_where = [&](auto&& holds) {
      int64_t low = 0;
      int64_t high = count();
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (holds(span(middle))) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      return low;
    };
    const int64_t begin = first_where([&](KeyRange span) { return span.end > keys.begin; });
    const int64_t end = first_where([&](KeyRange span) { return span.begin >= keys.end; });
    return {begin, std::max(begin, end)};
  }

 private:
  const Document& document_;
  AttentionPattern pattern_;
  int64_t group_;
  int64_t tile_lanes_;
  int64_t lanes_;
};

// So that the threads end together. Each item has its own results: the order changes no bits.
template <typename Item>
void largest_first(std::vector<Item>& items) {
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.work > b.work; });
}

// ---- Forward

struct ForwardItem {
  const Document* document;
  Heads heads;
  TileRange tiles;
  int64_t work;  // tiles · keys
};

class Forward {
 public:
  Forward(const AttentionArgs& args, const Sizes& sizes, const ForwardItem& item)
      : args_(args),
        sizes_(sizes),
        item_(item),
        document_(*item.document),
        tile_lanes_(sizes.isa.forward_lanes),
        block_(std::min(
            keys_per_block(kForwardBlockWords, sizes.steps + sizes.value_stride / sizes.pair),
            round_up(document_.keys(), 2))),
        key_stride_(transposed_stride(block_)),
        workspace_(floats()) {
    keys_ = workspace_.take(sizes.steps * key_stride_);
    values_ = workspace_.take(block_ / sizes.pair * sizes.value_stride);
    const HeadRows queries = query_rows(args.q, document_, item.heads);
    const QueryTiles tiles(document_, args.pattern, item.heads.group, tile_lanes_);
    for (int64_t i = item.tiles.begin; i < item.tiles.end; ++i) {
      Tile tile;
      tile.first_lane = tiles.first_lane(i);
      tile.lanes = tiles.lanes(i);
      tile.span = tiles.span(i);
      tile.visible = visible_keys(document_, args.pattern, item.heads.group, tile.first_lane,
                                  tile.lanes, sizes.isa.vector_lanes);
      tile.queries = workspace_.take(sizes.steps * tile_lanes_);
      tile.out = workspace_.take(sizes.value_stride * tile_lanes_);
      tile.largest = workspace_.take(tile_lanes_);
      tile.sum = workspace_.take(tile_lanes_);
      sizes.functions.pack_transposed(queries, tile.first_lane, tile.lanes, tile_lanes_,
                                      tile.queries, tile_lanes_);
      if (args.slopes.defined()) {
        tile.slopes = workspace_.take(tile_lanes_);
        std::fill_n(tile.slopes, tile_lanes_, 0.0F);
        lane_slopes(args.slopes, item.heads, tile.first_lane, tile.lanes, tile.slopes);
      }
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
    float *queries, *out, *largest, *sum, *slopes = nullptr;
  };

  int64_t floats() const {
    const auto padded = &Workspace::padded;
    const int64_t tile = padded(sizes_.steps * tile_lanes_) +
                         padded(sizes_.value_stride * tile_lanes_) + 3 * padded(tile_lanes_);
    return padded(sizes_.steps * key_stride_) + padded(block_ / sizes_.pair * sizes_.value_stride) +
           (item_.tiles.end - item_.tiles.begin) * tile;
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
      work.slopes = tile.slopes;
      work.out = tile.out;
      work.largest = tile.largest;
      work.sum = tile.sum;
      sizes_.functions.forward(work);
    }
  }

  void store(const Tile& tile) const {
    const HeadRows lse = statistic_rows(args_.lse, document_, item_.heads);
    const float unit = args_.slopes.defined() ? kLn2 : static_cast<float>(std::abs(args_.scale));
    for (int64_t i = 0; i < tile.lanes; ++i) {
      const float sum = tile.sum[i];
      statistic(lse, tile.first_lane + i) = lse_of(tile.largest[i] * unit, sum);
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
  int64_t block_;
  int64_t key_stride_;
  Workspace workspace_;
  float* keys_;
  float* values_;
  std::vector<Tile> tiles_;
};

// A document of a few lanes, from the rows of keys and values themselves.
void attention_few(const AttentionArgs& args, const Sizes& sizes, const ForwardItem& item) {
  const Document& document = *item.document;
  const int64_t lanes = document.tokens * item.heads.group;
  KeyRange visible[kFewLanes];
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t self = document.past + lane / item.heads.group;
    visible[lane] = {static_cast<int32_t>(args.pattern.first_visible(0, self)),
                     static_cast<int32_t>(self + 1)};
  }
  Workspace workspace(Workspace::padded(sizes.width_stride) +
                      Workspace::padded(sizes.value_stride));
  float largest[kFewLanes];
  float sum[kFewLanes];
  float slopes[kFewLanes];
  AttentionFewQueries few{};
  few.queries = query_rows(args.q, document, item.heads);
  few.out = query_rows(args.out, document, item.heads);
  few.keys = key_rows(args.k, document, item.heads);
  few.values = key_rows(args.v, document, item.heads);
  few.lanes = lanes;
  few.visible = visible;
  few.score_scale = args.scale * kLog2E;
  if (args.slopes.defined()) {
    lane_slopes(args.slopes, item.heads, 0, lanes, slopes);
    few.slopes = slopes;
  }
  few.query = workspace.take(sizes.width_stride);
  few.mixed = workspace.take(sizes.value_stride);
  few.largest = largest;
  few.sum = sum;
  sizes.functions.few_queries(few);
  const HeadRows lse = statistic_rows(args.lse, document, item.heads);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    statistic(lse, lane) = lse_of(largest[lane] * kLn2, sum[lane]);
  }
}

void attention_vectors(const AttentionArgs& args) {
  const Sizes sizes(args.q, args.v);
  const std::vector<Document> documents = documents_of(args.layout);
  const int64_t kv_heads = args.k.size(1);
  const int64_t group = args.q.size(1) / kv_heads;
  const int64_t tiles_per_item =
      std::max<int64_t>(1, kForwardLanesPerItem / sizes.isa.forward_lanes);
  std::vector<ForwardItem> items;
  for (const Document& document : documents) {
    const QueryTiles tiles(document, args.pattern, group, sizes.isa.forward_lanes);
    for (int64_t begin = 0; begin < tiles.count(); begin += tiles_per_item) {
      const int64_t end = std::min(begin + tiles_per_item, tiles.count());
      const int64_t keys = tiles.span(end - 1).end - tiles.span(begin).begin;
      for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
        items.push_back({&document, {group, kv_head}, {begin, end}, (end - begin) * keys});
      }
    }
  }
  largest_first(items);
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i) {
    const ForwardItem& item = items[static_cast<size_t>(i)];
    if (item.document->tokens * group <= kFewLanes) {
      attention_few(args, sizes, item);
    } else {
      Forward(args, sizes, item).run();
    }
  });
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
  KeyRange keys;    // even bounds
  TileRange tiles;  // that see them
  int64_t work;     // tiles · keys
  // Where the query gradients of these tiles are kept if keys are split, or −1.
  int64_t partial = -1;
};

class Backward {
 public:
  Backward(const AttentionBackwardArgs& args, const Sizes& sizes, const BackwardItem& item,
           float* partial)
      : args_(args),
        sizes_(sizes),
        item_(item),
        document_(*item.document),
        tile_lanes_(sizes.isa.backward_lanes),
        tiles_(document_, args.pattern, item.heads.group, tile_lanes_),
        tile_floats_(sizes.width_stride * tile_lanes_),
        block_(std::min<int64_t>(block_keys(sizes), item.keys.end - item.keys.begin)),
        key_stride_(transposed_stride(block_)),
        partial_(partial),
        slots_(partial == nullptr ? tiles_of_a_block() : item.tiles.end - item.tiles.begin),
        next_new_(partial == nullptr ? 0 : item.tiles.begin),
        next_unfinished_(next_new_),
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
    slopes_ = workspace_.take(tile_lanes_);
    scale_ = workspace_.take(tile_lanes_);
    delta_ = workspace_.take(slots_ * tile_lanes_);
    dquery_ = partial == nullptr ? workspace_.take(slots_ * tile_floats_) : partial;
    std::fill_n(scale_, tile_lanes_, args.scale);
  }

  static int64_t block_keys(const Sizes& sizes) {
    return keys_per_block(kBackwardBlockWords, sizes.steps + sizes.value_steps +
                                                   sizes.width_stride / sizes.pair +
                                                   sizes.width_stride + sizes.value_stride);
  }

  void run() {
    if (partial_ == nullptr) finish_tiles(tiles_.seeing({0, kAnyKey}).begin);
    for (int64_t begin = item_.keys.begin; begin < item_.keys.end; begin += block_) {
      visit(block_from(begin));
    }
    if (partial_ == nullptr) finish_tiles(tiles_.count());
  }

 private:
  KeyRange block_from(int64_t begin) const {
    return {static_cast<int32_t>(begin),
            static_cast<int32_t>(std::min<int64_t>(begin + block_, item_.keys.end))};
  }

  int64_t tiles_of_a_block() const {
    int64_t most = 1;
    for (int64_t begin = item_.keys.begin; begin < item_.keys.end; begin += block_) {
      const TileRange range = tiles_.seeing(block_from(begin));
      most = std::max(most, range.end - range.begin);
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
           padded(tile_lanes_ / sizes_.pair * sizes_.value_stride) + 3 * padded(tile_lanes_) +
           padded(slots_ * tile_lanes_) + (partial_ == nullptr ? padded(slots_ * tile_floats_) : 0);
  }

  // Tiles take turns in the slots; with partial sums every tile has its own.
  int64_t slot_of(int64_t tile) const {
    return (partial_ == nullptr ? tile : tile - item_.tiles.begin) % slots_;
  }
  float* dquery_of(int64_t tile) const { return dquery_ + slot_of(tile) * tile_floats_; }
  float* delta_of(int64_t tile) const { return delta_ + slot_of(tile) * tile_lanes_; }

  void visit(KeyRange block) {
    pack_keys(block);
    const int64_t keys = block.end - block.begin;
    std::fill_n(dkey_, keys * sizes_.width_stride, 0.0F);
    std::fill_n(dvalue_, keys * sizes_.value_stride, 0.0F);
    const TileRange range = tiles_.seeing(block);
    begin_tiles(range.end);
    for (int64_t tile = range.begin; tile < range.end; ++tile) {
      visit_tile(tile, intersection(tiles_.span(tile), block), block);
    }
    const int64_t count = std::min<int64_t>(block.end, document_.keys()) - block.begin;
    sizes_.functions.store_rows(dkey_, args_.scale, key_rows(args_.dk, document_, item_.heads),
                                block.begin, count);
    sizes_.functions.store_rows(dvalue_, 1.0F, key_rows(args_.dv, document_, item_.heads),
                                block.begin, count);
    if (partial_ == nullptr) {
      finish_tiles(tiles_.seeing({block.end, kAnyKey}).begin);
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
      float* delta = delta_of(next_new_);
      std::fill_n(delta, tile_lanes_, 0.0F);
      sizes_.functions.row_products(query_rows(args_.out, document_, item_.heads),
                                    query_rows(args_.dout, document_, item_.heads),
                                    tiles_.first_lane(next_new_), tiles_.lanes(next_new_), delta);
    }
  }

  // Writes the query gradients of tiles up to `end`.
  void finish_tiles(int64_t end) {
    begin_tiles(end);
    for (; next_unfinished_ < end; ++next_unfinished_) {
      sizes_.functions.store_columns(dquery_of(next_unfinished_), tile_lanes_, scale_,
                                     query_rows(args_.dq, document_, item_.heads),
                                     tiles_.first_lane(next_unfinished_),
                                     tiles_.lanes(next_unfinished_));
    }
  }

  void visit_tile(int64_t tile, KeyRange range, KeyRange block) {
    const AttentionFunctions& functions = sizes_.functions;
    const int64_t first = tiles_.first_lane(tile);
    const int64_t lanes = tiles_.lanes(tile);
    const HeadRows queries = query_rows(args_.q, document_, item_.heads);
    const HeadRows dout = query_rows(args_.dout, document_, item_.heads);
    functions.pack_transposed(queries, first, lanes, tile_lanes_, queries_, tile_lanes_);
    functions.pack_pairs(queries, first, lanes, tile_lanes_, query_pairs_);
    functions.pack_transposed(dout, first, lanes, tile_lanes_, dout_, tile_lanes_);
    functions.pack_pairs(dout, first, lanes, tile_lanes_, dout_pairs_);
    const HeadRows lse = statistic_rows(args_.lse, document_, item_.heads);
    std::fill_n(lse_, tile_lanes_, 0.0F);
    for (int64_t i = 0; i < lanes; ++i) lse_[i] = kLog2E * statistic(lse, first + i);
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
    if (args_.slopes.defined()) {
      std::fill_n(slopes_, tile_lanes_, 0.0F);
      lane_slopes(args_.slopes, item_.heads, first, lanes, slopes_);
      work.slopes = slopes_;
    }
    work.lse = lse_;
    work.delta = delta_of(tile);
    work.dquery = dquery_of(tile);
    work.dkey = dkey_;
    work.dvalue = dvalue_;
    functions.backward(work);
  }

  const AttentionBackwardArgs& args_;
  const Sizes& sizes_;
  const BackwardItem& item_;
  const Document& document_;
  int64_t tile_lanes_;
  QueryTiles tiles_;
  int64_t tile_floats_;
  int64_t block_;
  int64_t key_stride_;
  float* partial_;
  int64_t slots_;            // tiles whose query gradients are held at once
  int64_t next_new_;         // tiles before have been begun
  int64_t next_unfinished_;  // and before these, written
  Workspace workspace_;
  float *keys_, *key_pairs_, *values_, *dkey_, *dvalue_;
  float *queries_, *query_pairs_, *dout_, *dout_pairs_;
  float *lse_, *slopes_, *scale_, *delta_, *dquery_;
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

// A document and key/value head whose keys were split, with the partial sums in the order of keys.
struct SplitQueries {
  const Document* document;
  Heads heads;
  std::vector<BackwardItem> parts;
};

void sum_partials(const AttentionBackwardArgs& args, const Sizes& sizes, const SplitQueries& split,
                  const float* partials, int64_t tile) {
  const int64_t tile_lanes = sizes.isa.backward_lanes;
  const int64_t tile_floats = sizes.width_stride * tile_lanes;
  const QueryTiles tiles(*split.document, args.pattern, split.heads.group, tile_lanes);
  std::vector<float> sum(static_cast<size_t>(tile_floats), 0.0F);
  for (const BackwardItem& part : split.parts) {
    if (tile < part.tiles.begin || tile >= part.tiles.end) continue;
    const float* dquery = partials + part.partial + (tile - part.tiles.begin) * tile_floats;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += dquery[i];
  }
  const std::vector<float> scale(static_cast<size_t>(tile_lanes), args.scale);
  sizes.functions.store_columns(sum.data(), tile_lanes, scale.data(),
                                query_rows(args.dq, *split.document, split.heads),
                                tiles.first_lane(tile), tiles.lanes(tile));
}

void attention_backward_vectors(const AttentionBackwardArgs& args) {
  const Sizes sizes(args.q, args.v);
  const std::vector<Document> documents = documents_of(args.layout);
  const int64_t kv_heads = args.k.size(1);
  const int64_t group = args.q.size(1) / kv_heads;
  const int64_t tile_lanes = sizes.isa.backward_lanes;

  std::vector<BackwardItem> items;
  std::vector<SplitQueries> splits;
  std::vector<std::pair<const SplitQueries*, int64_t>> split_tiles;
  int64_t partial_floats = 0;
  for (const Document& document : documents) {
    const QueryTiles tiles(document, args.pattern, group, tile_lanes);
    const std::vector<int32_t> bounds =
        split_keys(document, args.pattern, Backward::block_keys(sizes), kv_heads);
    for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      SplitQueries split{&document, {group, kv_head}, {}};
      for (size_t i = 0; i + 1 < bounds.size(); ++i) {
        const KeyRange keys = {bounds[i], bounds[i + 1]};
        const TileRange seeing = tiles.seeing(keys);
        const int64_t count = seeing.end - seeing.begin;
        BackwardItem item{&document, split.heads, keys, seeing, count * (keys.end - keys.begin)};
        if (bounds.size() > 2) {
          item.partial = partial_floats;
          partial_floats += count * sizes.width_stride * tile_lanes;
        }
        items.push_back(item);
        split.parts.push_back(item);
      }
      if (split.parts.size() > 1) splits.push_back(std::move(split));
    }
  }
  for (const SplitQueries& split : splits) {
    const QueryTiles tiles(*split.document, args.pattern, group, tile_lanes);
    for (int64_t tile = 0; tile < tiles.count(); ++tile) split_tiles.emplace_back(&split, tile);
  }
  largest_first(items);

  const Tensor partials = Tensor::empty({partial_floats}, Dtype::f32);
  clear_unused_keys(args, documents);
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i) {
    const BackwardItem& item = items[static_cast<size_t>(i)];
    float* partial = item.partial < 0 ? nullptr : partials.data<float>() + item.partial;
    Backward(args, sizes, item, partial).run();
  });
  parallel_for(static_cast<int64_t>(split_tiles.size()), [&](int64_t i) {
    const auto& [split, tile] = split_tiles[static_cast<size_t>(i)];
    sum_partials(args, sizes, *split, partials.data<float>(), tile);
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
  const Tensor& slopes = args.slopes;
  return {args.layout,    args.pattern,   args.scale,
          args.q.size(1), args.k.size(1), args.q.size(2),
          args.v.size(2), slopes.defined() ? slopes.data<float>() : nullptr};
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
