// Partition of attention into work items, and the walk over tiles inside one. The arithmetic is in
// isa/attention.cpp; f64 runs the reference loops.
//
// Everything is laid out relative to a document: tiles of queries, blocks of keys and work items
// begin where it begins. So a token's bits do not depend on what else is in the batch.

#include "kernels/ops/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/base/count.h"
#include "kernels/base/rounding.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/reference/attention.h"

namespace sidewinder {
namespace {

constexpr int64_t kForwardLanesPerItem = 960;
constexpr int64_t kFewLanes = 4;                  // documents with no more are not worth a tile
constexpr int64_t kForwardBlockWords = 1 << 16;   // packed keys and values: 256 KiB
constexpr int64_t kForwardTurnWords = 3 << 16;    // those of a tile that is finished before others
constexpr int64_t kBackwardBlockWords = 1 << 17;  // and their gradients: 512 KiB
// All key/value heads of a long document have about so many blocks, and shorter ones for it, so
// that there are some for many threads. Of short documents there are many.
constexpr int64_t kBackwardItems = 64;
constexpr int64_t kLongDocument = 2048;  // keys
constexpr int64_t kFewestBlockKeys = 288;
constexpr int64_t kBlockUnit = 96;  // as long as a tile: few tiles lie across the end of a block

constexpr float kNoScore = -1e30F;  // the maximum of lanes that have seen no key
constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kLn2 = 0.69314718055994530942F;

// ---- Tensors as rows of one key/value head and of its query heads

struct Heads {
  int64_t group;  // query heads of a key/value head
  int64_t kv_head;
};

template <typename T>
HeadRows rows_from(const Tensor& tensor, int64_t token, int64_t step, const Heads& heads,
                   int64_t heads_in_row, int64_t width) {
  const int64_t offset = token * tensor.row_stride() + heads.kv_head * heads_in_row * width;
  return {tensor.data<T>() + offset, step * tensor.row_stride(), heads_in_row, width};
}
HeadRows rows_of(const Tensor& tensor, int64_t token, int64_t step, const Heads& heads,
                 int64_t heads_in_row, int64_t width) {
  return tensor.dtype() == Dtype::bf16
             ? rows_from<Bf16>(tensor, token, step, heads, heads_in_row, width)
             : rows_from<float>(tensor, token, step, heads, heads_in_row, width);
}
// Rows of q, out, dout, dq: lanes of the tiles.
HeadRows query_rows(const Tensor& tensor, const Document& document, const Heads& heads) {
  return rows_of(tensor, document.first_token, document.step, heads, heads.group, tensor.size(2));
}
HeadRows statistic_rows(const Tensor& tensor, const Document& document, const Heads& heads) {
  return rows_of(tensor, document.first_token, document.step, heads, heads.group, 1);
}
// Rows of k, v, dk, dv.
HeadRows key_rows(const Tensor& tensor, const Document& document, const Heads& heads) {
  return rows_of(tensor, document.first_key, document.step, heads, 1, tensor.size(2));
}

// Slopes of the bias in base 2 for lanes of a tile.
void lane_slopes(const Tensor& slopes, const Document& document, const Heads& heads,
                 int64_t first_lane, int64_t lanes, float* result) {
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t head = heads.kv_head * heads.group + (first_lane + i) % heads.group;
    result[i] = kLog2E * slopes.data<float>()[head] * static_cast<float>(document.step);
  }
}

float& statistic(const HeadRows& rows, int64_t lane) {
  return static_cast<float*>(rows.data)[lane / rows.heads * rows.token_stride + lane % rows.heads];
}
// function(i, statistic(rows, first + i)) for 0 ≤ i < count.
template <typename Function>
void for_each_statistic(const HeadRows& rows, int64_t first, int64_t count,
                        const Function& function) {
  float* token = static_cast<float*>(rows.data) + first / rows.heads * rows.token_stride;
  int64_t head = first % rows.heads;
  for (int64_t i = 0; i < count; ++i) {
    function(i, token[head]);
    if (++head < rows.heads) continue;
    head = 0;
    token += rows.token_stride;
  }
}
// lse of probabilities that were summed relative to a reference, which is in base 2.
float lse_of(float reference, float sum) {
  return sum == 0 ? -std::numeric_limits<float>::infinity() : reference * kLn2 + std::log(sum);
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

// ---- Far keys of a tile

// Copies rows that lie apart side by side.
class GatheredRows {
 public:
  HeadRows of(const HeadRows& rows, size_t element_size, const int32_t* positions, int64_t count) {
    const size_t row_size = element_size * static_cast<size_t>(rows.width);
    bytes_.resize(row_size * static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(bytes_.data() + row_size * static_cast<size_t>(i),
                  static_cast<const char*>(rows.data) +
                      static_cast<int64_t>(element_size) * rows.token_stride * positions[i],
                  row_size);
    }
    return {bytes_.data(), rows.width, 1, rows.width};
  }

 private:
  std::vector<char> bytes_;
};

// What a tile sees of a piece of its keys, where a range does not tell it.
struct Visibility {
  std::vector<uint32_t> bits;
  std::vector<int32_t> positions;
  void reserve(int64_t keys) {
    bits.resize(static_cast<size_t>(keys * kMaxTileVectors));
    positions.resize(static_cast<size_t>(keys + 1));
  }
};

// ---- Sizes that all items of a call share

struct Sizes {
  const AttentionIsa& isa;
  const AttentionFunctions& functions;
  int64_t pair;
  int64_t width, value_width;
  int64_t width_stride, value_stride;  // padded to whole vectors
  int64_t steps, value_steps;          // words of a packed row
  AttentionPart part;                  // within documents as classes_of cuts them

  template <typename Args>
  Sizes(const Args& args, const AttentionPart& part_of_pattern)
      : Sizes(args.q, args.v, part_of_pattern) {}
  Sizes(const Tensor& q, const Tensor& v, const AttentionPart& part_of_pattern)
      : isa(attention_kernels_for_isa()),
        functions(q.dtype() == Dtype::bf16 ? isa.bf16 : isa.f32),
        pair(functions.pair),
        width(q.size(2)),
        value_width(v.size(2)),
        width_stride(round_up(width, isa.vector_lanes)),
        value_stride(round_up(value_width, isa.vector_lanes)),
        steps((width + pair - 1) / pair),
        value_steps((value_width + pair - 1) / pair),
        part(part_of_pattern) {}

  QueryTiles forward_tiles(const Document& document, int64_t group) const {
    return {document, part, group, isa.forward_lanes, isa.vector_lanes};
  }
  QueryTiles backward_tiles(const Document& document, int64_t group) const {
    return {document, part, group, isa.backward_lanes, isa.vector_lanes};
  }
  // Those that read and write rows of `tensor`, whose type may not be that of q.
  const AttentionFunctions& rows_like(const Tensor& tensor) const {
    return tensor.dtype() == Dtype::bf16 ? isa.bf16 : isa.f32;
  }
};

// Keys that are packed at once, so that they stay in the cache while all queries go over them.
int64_t keys_per_block(int64_t words, int64_t words_per_key) {
  return std::max<int64_t>(96, words / words_per_key / 96 * 96);
}
// Distance of two steps of transposed keys: not a multiple of the page, which would map them all to
// one set of the cache.
int64_t transposed_stride(int64_t keys) { return round_up(keys, 16) + 16; }

// So that the threads end together. Each item has its own results: the order changes no bits.
template <typename Item>
void largest_first(std::vector<Item>& items) {
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.work > b.work; });
}

// ---- Forward
//
// Parts of a pattern run one after the other. Between them, softmax and products wait in f32.

struct UnfinishedAttention {
  Tensor out;        // [T, H, Pv] Σ P·v
  Tensor reference;  // [T, H], as in a tile
  Tensor sum;        // [T, H] Σ P; 0: nothing was seen yet
  Tensor divisor;    // [T, H] of out
};

struct ForwardItem {
  const Document* document;
  Heads heads;
  TileRange tiles;
  int64_t work;  // tiles · keys
};

class Forward {
 public:
  // Goes on from `before`, if it is not null, and leaves what is found in `after` or, if that is
  // null, in the results.
  Forward(const AttentionArgs& args, const Sizes& sizes, const ForwardItem& item,
          const UnfinishedAttention* before, const UnfinishedAttention* after)
      : args_(args),
        sizes_(sizes),
        item_(item),
        before_(before),
        after_(after),
        document_(*item.document),
        queries_(query_rows(args.q, document_, item.heads)),
        tile_lanes_(sizes.isa.forward_lanes),
        query_tiles_(sizes.forward_tiles(document_, item.heads.group)),
        span_(
            {query_tiles_.span(item.tiles.begin).begin, query_tiles_.span(item.tiles.end - 1).end}),
        in_turn_(are_in_turn()),
        block_(in_turn_ ? span_.end - span_.begin
                        : std::min(keys_per_block(kForwardBlockWords, words_per_key()),
                                   round_up(document_.keys(), 2))),
        key_stride_(transposed_stride(block_)),
        workspace_(floats()) {
    keys_ = workspace_.take(sizes.steps * key_stride_);
    values_ = workspace_.take(block_ / sizes.pair * sizes.value_stride);
    if (sizes.part.needs_visibility()) visibility_.reserve(block_);
  }

  void run() { in_turn_ ? run_in_turn() : run_by_blocks(); }

 private:
  struct Tile {
    int64_t index, first_lane, lanes;
    KeyRange span;
    TileKeys visible;
    float *queries, *out, *reference, *sum, *divisor, *slopes = nullptr;
  };

  int64_t words_per_key() const { return sizes_.steps + sizes_.value_stride / sizes_.pair; }

  bool are_in_turn() const {
    if (!sizes_.part.sees_only_near() || sizes_.part.needs_visibility()) return false;
    int64_t keys = 0;
    for (int64_t i = item_.tiles.begin; i < item_.tiles.end; ++i) {
      const KeyRange span = query_tiles_.span(i);
      keys = std::max<int64_t>(keys, span.end - span.begin);
    }
    return keys * words_per_key() <= kForwardTurnWords;
  }

  // One tile after the other, whose sums stay in the first cache; keys are packed just before the
  // first tile that sees them.
  void run_in_turn() {
    const HeadRows keys = key_rows(args_.k, document_, item_.heads);
    const HeadRows values = key_rows(args_.v, document_, item_.heads);
    const HeadRows out = query_rows(args_.out, document_, item_.heads);
    Tile tile = place();
    KeyRange next = {span_.begin, span_.begin};  // keys to be packed
    for (int64_t i = item_.tiles.begin; i < item_.tiles.end; ++i) {
      begin(i, tile);
      const int64_t missing = std::max(0, tile.span.end - next.begin);
      const int64_t end = next.begin + round_up(missing, sizes_.isa.vector_lanes);
      next.end = static_cast<int32_t>(std::min<int64_t>(end, span_.end));
      pack_near(next, span_.begin);
      next.begin = next.end;
      ahead_.pieces[0] = rows_ahead(out, tile.first_lane, tile.lanes);
      if (i + 1 < item_.tiles.end) {
        const int64_t lanes = query_tiles_.lanes(i + 1);
        const int64_t count = std::min(lanes / queries_.heads, document_.keys() - next.begin);
        ahead_.pieces[1] = rows_ahead(keys, next.begin, count);
        ahead_.pieces[2] = rows_ahead(values, next.begin, count);
        ahead_.pieces[3] = rows_ahead(queries_, query_tiles_.first_lane(i + 1), lanes);
      }
      multiply(tile, tile.visible, tile.span, span_.begin);
      store(tile);
    }
  }

  // Tokens that hold rows first … first + count − 1.
  RowsAhead::Piece rows_ahead(const HeadRows& rows, int64_t first, int64_t count) const {
    const auto element = static_cast<int64_t>(size_of(args_.q.dtype()));
    const int64_t stride = rows.token_stride * element;
    const int64_t token = first / rows.heads;
    return {static_cast<const char*>(rows.data) + token * stride, stride,
            rows.heads * rows.width * element,
            (first + count + rows.heads - 1) / rows.heads - token};
  }

  // All tiles for each block of keys.
  void run_by_blocks() {
    for (int64_t i = item_.tiles.begin; i < item_.tiles.end; ++i) {
      tiles_.push_back(place());
      begin(i, tiles_.back());
    }
    for (int32_t begin = span_.begin; begin < span_.end; begin += static_cast<int32_t>(block_)) {
      visit({begin, static_cast<int32_t>(std::min<int64_t>(begin + block_, span_.end))});
    }
    for (const Tile& tile : tiles_) {
      visit_far(tile);
      store(tile);
    }
  }

  Tile place() {
    Tile tile;
    tile.queries = workspace_.take(sizes_.steps * tile_lanes_);
    tile.out = workspace_.take(sizes_.value_stride * tile_lanes_);
    tile.reference = workspace_.take(tile_lanes_);
    tile.sum = workspace_.take(tile_lanes_);
    tile.divisor = workspace_.take(tile_lanes_);
    if (args_.slopes.defined()) tile.slopes = workspace_.take(tile_lanes_);
    return tile;
  }

  void begin(int64_t index, Tile& tile) {
    tile.index = index;
    tile.first_lane = query_tiles_.first_lane(index);
    tile.lanes = query_tiles_.lanes(index);
    tile.span = query_tiles_.span(index);
    query_tiles_.near(index, tile.visible);
    sizes_.functions.pack_transposed(queries_, tile.first_lane, tile.lanes, tile_lanes_,
                                     tile.queries, tile_lanes_);
    if (args_.slopes.defined()) {
      std::fill_n(tile.slopes, tile_lanes_, 0.0F);
      lane_slopes(args_.slopes, document_, item_.heads, tile.first_lane, tile.lanes, tile.slopes);
    }
    if (args_.scale < 0) negate(tile.queries, sizes_.steps * tile_lanes_);
    std::fill_n(tile.out, sizes_.value_stride * tile_lanes_, 0.0F);
    std::fill_n(tile.reference, tile_lanes_, kNoScore);
    std::fill_n(tile.sum, tile_lanes_, 0.0F);
    std::fill_n(tile.divisor, tile_lanes_, 0.0F);
    if (before_ != nullptr) go_on(*before_, tile);
  }

  int64_t floats() const {
    const auto padded = &Workspace::padded;
    const int64_t tile = padded(sizes_.steps * tile_lanes_) +
                         padded(sizes_.value_stride * tile_lanes_) + 4 * padded(tile_lanes_);
    return padded(sizes_.steps * key_stride_) + padded(block_ / sizes_.pair * sizes_.value_stride) +
           (in_turn_ ? 1 : item_.tiles.end - item_.tiles.begin) * tile;
  }

  void go_on(const UnfinishedAttention& before, const Tile& tile) const {
    sizes_.isa.f32.pack_transposed(query_rows(before.out, document_, item_.heads), tile.first_lane,
                                   tile.lanes, tile_lanes_, tile.out, tile_lanes_);
    const HeadRows reference = statistic_rows(before.reference, document_, item_.heads);
    const HeadRows sum = statistic_rows(before.sum, document_, item_.heads);
    const HeadRows divisor = statistic_rows(before.divisor, document_, item_.heads);
    for (int64_t i = 0; i < tile.lanes; ++i) {
      tile.sum[i] = statistic(sum, tile.first_lane + i);
      tile.divisor[i] = statistic(divisor, tile.first_lane + i);
      if (tile.sum[i] != 0) tile.reference[i] = statistic(reference, tile.first_lane + i);
    }
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

  // Packs `padded` keys (even), of which the last may be missing, as those from `at` on.
  void pack(const HeadRows& keys, const HeadRows& values, int64_t first, int64_t count,
            int64_t padded, int64_t at) {
    sizes_.functions.pack_transposed(keys, first, count, round_up(padded, sizes_.isa.vector_lanes),
                                     keys_ + at, key_stride_);
    sizes_.functions.pack_pairs(values, first, count, padded,
                                values_ + at / sizes_.pair * sizes_.value_stride);
  }

  void pack_near(KeyRange keys, int32_t origin) {
    const int64_t count = std::min<int64_t>(keys.end, document_.keys()) - keys.begin;
    pack(key_rows(args_.k, document_, item_.heads), key_rows(args_.v, document_, item_.heads),
         keys.begin, count, keys.end - keys.begin, keys.begin - origin);
  }

  void visit(KeyRange block) {
    pack_near(block, block.begin);
    for (Tile& tile : tiles_) {
      const KeyRange range = intersection(tile.span, block);
      if (is_empty(range)) continue;
      if (query_tiles_.needs_bits(tile.index)) {
        query_tiles_.near_bits(tile.index, range, tile.visible, visibility_.bits.data());
      }
      multiply(tile, tile.visible, range, block.begin);
    }
  }

  void visit_far(const Tile& tile) {
    const FarKeys far = query_tiles_.far_keys(tile.index);
    const auto total = static_cast<int64_t>(far.keys.size());
    for (int64_t begin = 0; begin < total; begin += block_) {
      const int64_t end = std::min(begin + block_, total);
      const TileKeys visible = query_tiles_.far(
          tile.index, far, begin, end, visibility_.bits.data(), visibility_.positions.data());
      const auto gathered = [&](const Tensor& tensor, GatheredRows& rows) {
        return rows.of(key_rows(tensor, document_, item_.heads), size_of(tensor.dtype()),
                       visibility_.positions.data(), end - begin);
      };
      const int64_t padded = round_up(end - begin, 2);
      pack(gathered(args_.k, far_keys_), gathered(args_.v, far_values_), 0, end - begin, padded, 0);
      multiply(tile, visible, {0, static_cast<int32_t>(padded)}, 0);
    }
  }

  void multiply(const Tile& tile, const TileKeys& visible, KeyRange range, int32_t origin) const {
    AttentionForwardTile work{};
    work.visible = &visible;
    work.block = range;
    work.origin = origin;
    work.queries = tile.queries;
    work.keys = keys_;
    work.key_stride = key_stride_;
    work.values = values_;
    work.width = sizes_.width;
    work.value_width = sizes_.value_width;
    work.score_scale = std::abs(args_.scale) * kLog2E;
    work.slopes = tile.slopes;
    work.out = tile.out;
    work.reference = tile.reference;
    work.sum = tile.sum;
    work.divisor = tile.divisor;
    work.ahead = ahead_;
    sizes_.functions.forward(work);
  }

  void store(const Tile& tile) const {
    if (after_ != nullptr) return leave(*after_, tile);
    const HeadRows lse = statistic_rows(args_.lse, document_, item_.heads);
    for_each_statistic(lse, tile.first_lane, tile.lanes, [&](int64_t i, float& value) {
      value = lse_of(tile.reference[i], tile.sum[i]);
      tile.divisor[i] = tile.divisor[i] == 0 ? 0.0F : 1.0F / tile.divisor[i];
    });
    sizes_.functions.store_columns(tile.out, tile_lanes_, tile.divisor,
                                   query_rows(args_.out, document_, item_.heads), tile.first_lane,
                                   tile.lanes);
  }

  void leave(const UnfinishedAttention& after, const Tile& tile) const {
    const HeadRows reference = statistic_rows(after.reference, document_, item_.heads);
    const HeadRows sum = statistic_rows(after.sum, document_, item_.heads);
    const HeadRows divisor = statistic_rows(after.divisor, document_, item_.heads);
    for (int64_t i = 0; i < tile.lanes; ++i) {
      statistic(reference, tile.first_lane + i) = tile.reference[i];
      statistic(sum, tile.first_lane + i) = tile.sum[i];
      statistic(divisor, tile.first_lane + i) = tile.divisor[i];
    }
    std::fill_n(tile.sum, tile_lanes_, 1.0F);
    sizes_.isa.f32.store_columns(tile.out, tile_lanes_, tile.sum,
                                 query_rows(after.out, document_, item_.heads), tile.first_lane,
                                 tile.lanes);
  }

  const AttentionArgs& args_;
  const Sizes& sizes_;
  const ForwardItem& item_;
  const UnfinishedAttention* before_;
  const UnfinishedAttention* after_;
  const Document& document_;
  HeadRows queries_;
  int64_t tile_lanes_;
  QueryTiles query_tiles_;
  KeyRange span_;  // keys that its tiles visit
  bool in_turn_;   // no tile visits more keys than stay in the cache
  int64_t block_;
  int64_t key_stride_;
  Workspace workspace_;
  float* keys_;
  float* values_;
  RowsAhead ahead_ = {};
  std::vector<Tile> tiles_;
  Visibility visibility_;
  GatheredRows far_keys_, far_values_;
};

// Appends exactly the keys that one query sees.
void add_ranges(const AttentionPattern& pattern, int64_t query, std::vector<KeyRange>& ranges) {
  const AttentionPattern::Span near = pattern.near_span(query, query);
  const size_t first = ranges.size();
  const auto add = [&](int64_t begin, int64_t end) {
    const auto key = static_cast<int32_t>(begin);
    if (ranges.size() > first && ranges.back().end == key) {
      ranges.back().end = static_cast<int32_t>(end);
    } else {
      ranges.push_back({key, static_cast<int32_t>(end)});
    }
  };
  for (const int32_t key : pattern.far_keys(query, query, near.begin).keys) add(key, key + 1);
  if (pattern.dilation == 1) {
    if (near.begin < near.end) add(near.begin, near.end);
    return;
  }
  const AttentionRow row = pattern.row(query);
  for (int64_t key = near.begin; key < near.end; ++key) {
    if (row.allows(key)) add(key, key + 1);
  }
}

// A document of a few lanes, from the rows of keys and values themselves.
void attention_few(const AttentionArgs& args, const Sizes& sizes, const ForwardItem& item) {
  const Document& document = *item.document;
  const int64_t lanes = document.tokens * item.heads.group;
  std::vector<KeyRange> visible;
  int64_t ranges_end[kFewLanes];
  int64_t position[kFewLanes];
  for (int64_t lane = 0; lane < lanes; ++lane) {
    position[lane] = document.past + lane / item.heads.group;
    add_ranges(sizes.part.pattern, position[lane], visible);
    ranges_end[lane] = static_cast<int64_t>(visible.size());
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
  few.visible = visible.data();
  few.ranges_end = ranges_end;
  few.position = position;
  few.score_scale = args.scale * kLog2E;
  if (args.slopes.defined()) {
    lane_slopes(args.slopes, document, item.heads, 0, lanes, slopes);
    few.slopes = slopes;
  }
  few.query = workspace.take(sizes.width_stride);
  few.mixed = workspace.take(sizes.value_stride);
  few.largest = largest;
  few.sum = sum;
  sizes.functions.few_queries(few);
  const HeadRows lse = statistic_rows(args.lse, document, item.heads);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    statistic(lse, lane) = lse_of(largest[lane], sum[lane]);
  }
}

void attention_part(const AttentionArgs& args, const AttentionPart& part,
                    const std::vector<Document>& documents, const UnfinishedAttention* before,
                    const UnfinishedAttention* after) {
  const Sizes sizes(args, part);
  const int64_t kv_heads = args.k.size(1);
  const int64_t group = args.q.size(1) / kv_heads;
  const int64_t tiles_per_item =
      std::max<int64_t>(1, kForwardLanesPerItem / sizes.isa.forward_lanes);
  std::vector<ForwardItem> items;
  for (const Document& document : documents) {
    const QueryTiles tiles = sizes.forward_tiles(document, group);
    for (int64_t begin = 0, end = 0; begin < tiles.count(); begin = end) {
      end = begin + tiles_per_item;
      // A short rest would pack the keys for a few queries.
      if (end + tiles_per_item / 2 >= tiles.count()) end = tiles.count();
      const int64_t keys = tiles.span(end - 1).end - tiles.span(begin).begin;
      for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
        items.push_back({&document, {group, kv_head}, {begin, end}, (end - begin) * keys});
      }
    }
  }
  largest_first(items);
  const bool whole = before == nullptr && after == nullptr;
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i) {
    const ForwardItem& item = items[static_cast<size_t>(i)];
    if (whole && item.document->tokens * group <= kFewLanes) {
      attention_few(args, sizes, item);
    } else {
      Forward(args, sizes, item, before, after).run();
    }
  });
}

void attention_vectors(const AttentionArgs& args) {
  const std::vector<AttentionPart> parts = args.pattern.parts();
  std::vector<Document> documents = documents_of(args.layout);
  if (parts.size() == 1) {
    return attention_part(args, parts[0], classes_of(documents, parts[0]), nullptr, nullptr);
  }
  // Documents of few queries are not worth a tile, let alone one per class: the whole rule is
  // asked.
  const int64_t group = args.q.size(1) / args.k.size(1);
  const auto few = std::stable_partition(
      documents.begin(), documents.end(),
      [&](const Document& document) { return document.tokens * group > kFewLanes; });
  if (few != documents.end()) {
    attention_part(args, {.pattern = args.pattern}, {few, documents.end()}, nullptr, nullptr);
    documents.erase(few, documents.end());
  }
  if (documents.empty()) return;
  const Shape statistics = args.lse.shape();
  const UnfinishedAttention unfinished = {
      Tensor::zeros(args.out.shape(), Dtype::f32), Tensor::empty(statistics, Dtype::f32),
      Tensor::zeros(statistics, Dtype::f32), Tensor::zeros(statistics, Dtype::f32)};
  for (size_t i = 0; i < parts.size(); ++i) {
    attention_part(args, parts[i], classes_of(documents, parts[i]), i == 0 ? nullptr : &unfinished,
                   i + 1 == parts.size() ? nullptr : &unfinished);
  }
}

// ---- Backward
//
// A work item is a block of the keys of one document and key/value head. It goes over the tiles of
// queries that see it, so that key and value gradients stay in the cache and are complete at its
// end. The query gradients of a tile are sums over the blocks that it sees. These add to them in
// turn, from the first block to the last, so that the bits do not depend on the threads. Blocks
// begin in this order too, and all with the last queries, so that a thread seldom waits for another
// that works on the block before.
//
// Far keys are gathered per tile, so their items run first, one for each document and key/value
// head that has some: they go over the tiles, add to the query gradients before all blocks, and
// leave the gradients of far keys in f32 rows of their own, which the items of the near keys add to
// theirs.

// The keys of a document that some tile gathers, as rows of sums.
struct FarRows {
  std::vector<int32_t> row_of;  // per key, −1: none
  int64_t count = 0;
};

// How the keys of a document are cut, and which tiles each block adds to: every tile has one block
// at least, whatever it sees.
class KeyBlocks {
 public:
  KeyBlocks(const Document& document, const Sizes& sizes, const QueryTiles& tiles, int64_t kv_heads)
      : keys_(round_up(document.keys(), 2)), size_(size_for(sizes, kv_heads)) {
    const auto count = std::max<int64_t>(1, (keys_ + size_ - 1) / size_);
    tiles_.assign(static_cast<size_t>(count), {tiles.count(), tiles.count()});
    for (int64_t tile = 0; tile < tiles.count(); ++tile) {
      const KeyRange span = tiles.span(tile);
      const auto block_of = [&](int64_t key) {
        return static_cast<int32_t>(std::min(key / size_, count - 1));
      };
      const BlockRange range = {block_of(span.begin), block_of(std::max(span.begin, span.end - 1))};
      blocks_.push_back(range);
      for (int32_t block = range.first; block <= range.last; ++block) {
        TileRange& seeing = tiles_[static_cast<size_t>(block)];
        seeing = {std::min(seeing.begin, tile), tile + 1};
      }
    }
  }

  int64_t size() const { return size_; }  // of the longest
  int32_t count() const { return static_cast<int32_t>(tiles_.size()); }
  KeyRange keys(int32_t block) const {
    return {static_cast<int32_t>(std::min(keys_, block * size_)),
            static_cast<int32_t>(std::min(keys_, (block + 1) * size_))};
  }
  TileRange tiles(int32_t block) const { return tiles_[static_cast<size_t>(block)]; }
  int64_t tiles() const { return static_cast<int64_t>(blocks_.size()); }
  int32_t first_of(int64_t tile) const { return blocks_[static_cast<size_t>(tile)].first; }
  int32_t last_of(int64_t tile) const { return blocks_[static_cast<size_t>(tile)].last; }
  int64_t work() const {  // tiles · keys
    int64_t sum = 0;
    for (const TileRange& seeing : tiles_) sum += size_ * (seeing.end - seeing.begin);
    return sum;
  }

 private:
  struct BlockRange {
    int32_t first, last;
  };

  int64_t size_for(const Sizes& sizes, int64_t kv_heads) const {
    const int64_t most = keys_per_block(
        kBackwardBlockWords, sizes.steps + sizes.value_steps + sizes.width_stride / sizes.pair +
                                 sizes.width_stride + sizes.value_stride);
    if (keys_ < kLongDocument) return std::min(most, std::max<int64_t>(2, keys_));
    const int64_t wanted = keys_ * kv_heads / kBackwardItems;
    return std::min(most, std::max(kFewestBlockKeys, round_up(wanted, kBlockUnit)));
  }

  int64_t keys_;
  int64_t size_;
  std::vector<TileRange> tiles_;    // per block
  std::vector<BlockRange> blocks_;  // per tile
};

// What one tile has found so far.
struct QuerySums {
  // [width_stride + 1][lanes], the last row Σ dout·out. Empty before the first block.
  Tensor floats;
  Count turn;  // the block that may add
};

// One document and key/value head, whose blocks threads take in their order.
struct BackwardHead {
  const Document* document = nullptr;
  Heads heads = {};
  const KeyBlocks* blocks = nullptr;
  std::unique_ptr<QuerySums[]> sums;  // per tile
  std::atomic<int32_t> taken{0};      // blocks
  const FarRows* far = nullptr;       // of the document, if it has any
  float* far_dkey = nullptr;          // [far.count][width_stride], not scaled
  float* far_dvalue = nullptr;        // [far.count][value_stride]

  int32_t left() const { return blocks->count() - taken.load(std::memory_order_relaxed); }
};

// The turns of one block at its tiles, from the last tile to the first. Those that are left at the
// end, as after an exception, are passed on, or other threads would wait for ever.
class Turns {
 public:
  Turns(const BackwardHead& head, int32_t block, TileRange tiles)
      : head_(head), block_(block), tiles_(tiles) {}
  ~Turns() {
    while (tiles_.begin < tiles_.end) {
      wait();
      pass_on();
    }
  }
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  void wait() const { head_.sums[tiles_.end - 1].turn.wait_for(block_); }
  void pass_on() { head_.sums[--tiles_.end].turn.add(); }

 private:
  const BackwardHead& head_;
  int32_t block_;
  TileRange tiles_;  // that are left
};

// Pieces of memory that a thread has in its cache: several lie side by side, in whole pages. Strewn
// over the arena they cost up to 5 % of the time.
class Pieces {
 public:
  // `most`: that are in use at a time.
  Pieces(int64_t floats, int64_t most)
      : floats_(round_up(floats, 1024)), at_once_(std::min(kAtOnce, most)) {}
  Tensor take() {
    if (free_.empty()) {
      const Tensor slab = Tensor::empty({at_once_, floats_}, Dtype::f32);
      for (int64_t i = at_once_ - 1; i >= 0; --i) free_.push_back(slab.slice_rows(i, i + 1));
    }
    Tensor piece = std::move(free_.back());
    free_.pop_back();
    return piece;
  }
  void give_back(Tensor piece) { free_.push_back(std::move(piece)); }

 private:
  static constexpr int64_t kAtOnce = 16;
  int64_t floats_, at_once_;
  std::vector<Tensor> free_;
};

// What parts of a pattern before this one found, in f32 and, of queries and keys, not scaled.
struct GradientSums {
  Tensor dq, dk, dv;
};

// Where the gradients of one part go.
struct BackwardResults {
  const Tensor& dq;
  const Tensor& dk;
  const Tensor& dv;
  float scale;                 // of dq and dk
  const GradientSums* before;  // to be added, or null
};

class Backward {
 public:
  Backward(const AttentionBackwardArgs& args, const BackwardResults& results, const Sizes& sizes,
           const BackwardHead& head, Pieces& pieces)
      : args_(args),
        results_(results),
        sizes_(sizes),
        head_(head),
        document_(*head.document),
        pieces_(pieces),
        tile_lanes_(sizes.isa.backward_lanes),
        tiles_(sizes.backward_tiles(document_, head.heads.group)),
        tile_floats_(sizes.width_stride * tile_lanes_),
        block_(head.blocks->size()),
        key_stride_(transposed_stride(block_)),
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
    std::fill_n(scale_, tile_lanes_, results.scale);
    if (sizes.part.needs_visibility()) visibility_.reserve(block_);
  }

  // Block `block` of its head.
  void run(int32_t block, Turns& turns) {
    const KeyBlocks& blocks = *head_.blocks;
    const KeyRange keys = blocks.keys(block);
    const int64_t count = std::min<int64_t>(keys.end, document_.keys()) - keys.begin;
    pack_keys(key_rows(args_.k, document_, head_.heads), key_rows(args_.v, document_, head_.heads),
              keys.begin, count, keys.end - keys.begin);
    const TileRange seeing = blocks.tiles(block);
    for (int64_t tile = seeing.end - 1; tile >= seeing.begin; --tile) {
      turns.wait();
      begin(tile);
      visit_near(tile, keys);
      if (block == blocks.last_of(tile)) finish(tile);
      turns.pass_on();
    }
    for (int64_t i = 0; head_.far != nullptr && i < count; ++i) {
      const int32_t row = head_.far->row_of[static_cast<size_t>(keys.begin + i)];
      if (row < 0) continue;
      add(head_.far_dkey + row * sizes_.width_stride, dkey_ + i * sizes_.width_stride,
          sizes_.width_stride);
      add(head_.far_dvalue + row * sizes_.value_stride, dvalue_ + i * sizes_.value_stride,
          sizes_.value_stride);
    }
    if (results_.before != nullptr) {
      add_rows(results_.before->dk, keys.begin, count, dkey_, sizes_.width_stride);
      add_rows(results_.before->dv, keys.begin, count, dvalue_, sizes_.value_stride);
    }
    const AttentionFunctions& functions = sizes_.rows_like(results_.dk);
    functions.store_rows(dkey_, results_.scale, key_rows(results_.dk, document_, head_.heads),
                         keys.begin, count);
    functions.store_rows(dvalue_, 1.0F, key_rows(results_.dv, document_, head_.heads), keys.begin,
                         count);
  }

  void run_far() {
    std::fill_n(head_.far_dkey, head_.far->count * sizes_.width_stride, 0.0F);
    std::fill_n(head_.far_dvalue, head_.far->count * sizes_.value_stride, 0.0F);
    for (int64_t tile = 0; tile < tiles_.count(); ++tile) {
      begin(tile);
      visit_far(tile);
    }
  }

 private:
  int64_t floats() const {
    const auto padded = &Workspace::padded;
    return padded(sizes_.steps * key_stride_) + padded(block_ / sizes_.pair * sizes_.width_stride) +
           padded(sizes_.value_steps * key_stride_) + padded(block_ * sizes_.width_stride) +
           padded(block_ * sizes_.value_stride) + padded(sizes_.steps * tile_lanes_) +
           padded(tile_lanes_ / sizes_.pair * sizes_.width_stride) +
           padded(sizes_.value_steps * tile_lanes_) +
           padded(tile_lanes_ / sizes_.pair * sizes_.value_stride) + 3 * padded(tile_lanes_);
  }

  float* dquery_of(int64_t tile) const { return head_.sums[tile].floats.data<float>(); }
  float* delta_of(int64_t tile) const { return dquery_of(tile) + tile_floats_; }

  void visit_near(int64_t tile, KeyRange block) {
    const KeyRange seen = intersection(tiles_.span(tile), block);
    if (is_empty(seen)) return;
    TileKeys visible;
    tiles_.near(tile, visible);
    if (tiles_.needs_bits(tile)) tiles_.near_bits(tile, seen, visible, visibility_.bits.data());
    visit_tile(tile, visible, seen, block.begin);
  }

  void visit_far(int64_t tile) {
    const FarKeys far = tiles_.far_keys(tile);
    const auto total = static_cast<int64_t>(far.keys.size());
    for (int64_t begin = 0; begin < total; begin += block_) {
      const int64_t end = std::min(begin + block_, total);
      const int64_t padded = round_up(end - begin, 2);
      const TileKeys visible =
          tiles_.far(tile, far, begin, end, visibility_.bits.data(), visibility_.positions.data());
      const auto gathered = [&](const Tensor& tensor, GatheredRows& rows) {
        return rows.of(key_rows(tensor, document_, head_.heads), size_of(tensor.dtype()),
                       visibility_.positions.data(), end - begin);
      };
      pack_keys(gathered(args_.k, far_keys_), gathered(args_.v, far_values_), 0, end - begin,
                padded);
      visit_tile(tile, visible, {0, static_cast<int32_t>(padded)}, 0);
      for (int64_t i = 0; i < end - begin; ++i) {
        const int32_t key = far.keys[static_cast<size_t>(begin + i)];
        const int32_t row = head_.far->row_of[static_cast<size_t>(key)];
        add(dkey_ + i * sizes_.width_stride, head_.far_dkey + row * sizes_.width_stride,
            sizes_.width_stride);
        add(dvalue_ + i * sizes_.value_stride, head_.far_dvalue + row * sizes_.value_stride,
            sizes_.value_stride);
      }
    }
  }

  static void add(const float* from, float* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
  }
  // Rows of f32 keys or values to rows `stride` apart.
  void add_rows(const Tensor& from, int64_t first, int64_t count, float* to, int64_t stride) const {
    const HeadRows rows = key_rows(from, document_, head_.heads);
    for (int64_t i = 0; i < count; ++i) {
      add(static_cast<const float*>(rows.data) + (first + i) * rows.token_stride, to + i * stride,
          rows.width);
    }
  }

  // Packs `padded` keys (even), of which the last may be missing, and clears their gradients.
  void pack_keys(const HeadRows& keys, const HeadRows& values, int64_t first, int64_t count,
                 int64_t padded) {
    const AttentionFunctions& functions = sizes_.functions;
    const int64_t padded_lanes = round_up(padded, sizes_.isa.vector_lanes);
    functions.pack_transposed(keys, first, count, padded_lanes, keys_, key_stride_);
    functions.pack_pairs(keys, first, count, padded, key_pairs_);
    functions.pack_transposed(values, first, count, padded_lanes, values_, key_stride_);
    std::fill_n(dkey_, padded * sizes_.width_stride, 0.0F);
    std::fill_n(dvalue_, padded * sizes_.value_stride, 0.0F);
  }

  // Clears the query gradients of a tile, unless something was added before, and forms Σ dout·out.
  void begin(int64_t tile) {
    Tensor& sums = head_.sums[tile].floats;
    if (sums.defined()) return;
    sums = pieces_.take();
    const int64_t first = tiles_.first_lane(tile);
    const int64_t lanes = tiles_.lanes(tile);
    std::fill_n(dquery_of(tile), tile_floats_ + tile_lanes_, 0.0F);
    if (results_.before != nullptr) {
      sizes_.isa.f32.pack_transposed(query_rows(results_.before->dq, document_, head_.heads), first,
                                     lanes, tile_lanes_, dquery_of(tile), tile_lanes_);
    }
    sizes_.functions.row_products(query_rows(args_.out, document_, head_.heads),
                                  query_rows(args_.dout, document_, head_.heads), first, lanes,
                                  delta_of(tile));
  }

  // Writes the query gradients of a tile.
  void finish(int64_t tile) {
    sizes_.rows_like(results_.dq)
        .store_columns(dquery_of(tile), tile_lanes_, scale_,
                       query_rows(results_.dq, document_, head_.heads), tiles_.first_lane(tile),
                       tiles_.lanes(tile));
    pieces_.give_back(std::exchange(head_.sums[tile].floats, {}));
  }

  void visit_tile(int64_t tile, const TileKeys& visible, KeyRange range, int32_t origin) {
    const AttentionFunctions& functions = sizes_.functions;
    const int64_t first = tiles_.first_lane(tile);
    const int64_t lanes = tiles_.lanes(tile);
    const HeadRows queries = query_rows(args_.q, document_, head_.heads);
    const HeadRows dout = query_rows(args_.dout, document_, head_.heads);
    functions.pack_transposed(queries, first, lanes, tile_lanes_, queries_, tile_lanes_);
    functions.pack_pairs(queries, first, lanes, tile_lanes_, query_pairs_);
    functions.pack_transposed(dout, first, lanes, tile_lanes_, dout_, tile_lanes_);
    functions.pack_pairs(dout, first, lanes, tile_lanes_, dout_pairs_);
    const HeadRows lse = statistic_rows(args_.lse, document_, head_.heads);
    std::fill_n(lse_, tile_lanes_, 0.0F);
    for_each_statistic(lse, first, lanes,
                       [&](int64_t i, float value) { lse_[i] = kLog2E * value; });
    AttentionBackwardTile work{};
    work.visible = &visible;
    work.block = range;
    work.origin = origin;
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
      lane_slopes(args_.slopes, document_, head_.heads, first, lanes, slopes_);
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
  const BackwardResults& results_;
  const Sizes& sizes_;
  const BackwardHead& head_;
  const Document& document_;
  Pieces& pieces_;
  int64_t tile_lanes_;
  QueryTiles tiles_;
  int64_t tile_floats_;
  int64_t block_;  // keys that are packed at once
  int64_t key_stride_;
  Workspace workspace_;
  float *keys_, *key_pairs_, *values_, *dkey_, *dvalue_;
  float *queries_, *query_pairs_, *dout_, *dout_pairs_;
  float *lse_, *slopes_, *scale_;
  Visibility visibility_;
  GatheredRows far_keys_, far_values_;
};

FarRows far_rows(const Document& document, const QueryTiles& tiles) {
  FarRows rows;
  rows.row_of.assign(static_cast<size_t>(document.keys()), -1);
  for (int64_t tile = 0; tile < tiles.count(); ++tile) {
    for (const int32_t key : tiles.far_keys(tile).keys) {
      int32_t& row = rows.row_of[static_cast<size_t>(key)];
      if (row < 0) row = static_cast<int32_t>(rows.count++);
    }
  }
  return rows;
}

// Blocks that no thread has taken yet.
class BlocksToDo {
 public:
  explicit BlocksToDo(std::deque<BackwardHead>& heads) : heads_(heads) {}

  // The next block for a thread whose last one was of `head`: of the same head, whose sums it has
  // in its cache, or of one that no thread has begun, or of the one with most blocks left. Sets
  // `head` to null if there is none.
  int32_t take(BackwardHead*& head) {
    for (;;) {
      if (head != nullptr) {
        const int32_t block = head->taken.fetch_add(1, std::memory_order_relaxed);
        if (block < head->blocks->count()) return block;
      }
      head = another();
      if (head == nullptr) return 0;
    }
  }

 private:
  BackwardHead* another() {
    const size_t begun = begun_.fetch_add(1, std::memory_order_relaxed);
    if (begun < heads_.size()) return &heads_[begun];
    BackwardHead* most = nullptr;
    for (BackwardHead& head : heads_) {
      if (head.left() > (most == nullptr ? 0 : most->left())) most = &head;
    }
    return most;
  }

  std::deque<BackwardHead>& heads_;
  std::atomic<size_t> begun_{0};
};

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

void attention_backward_part(const AttentionBackwardArgs& args, const AttentionPart& part,
                             const std::vector<Document>& documents,
                             const BackwardResults& results) {
  const Sizes sizes(args, part);
  const int64_t kv_heads = args.k.size(1);
  const int64_t group = args.q.size(1) / kv_heads;

  struct DocumentParts {
    const Document* document;
    KeyBlocks blocks;
    FarRows far;
    int64_t work;
  };
  std::vector<DocumentParts> all;
  // Far gradients of all documents and key/value heads lie in one tensor.
  const int64_t far_width = sizes.width_stride + sizes.value_stride;
  int64_t far_floats = 0;
  int64_t most_tiles = 1;
  for (const Document& document : documents) {
    const QueryTiles tiles = sizes.backward_tiles(document, group);
    most_tiles = std::max(most_tiles, tiles.count());
    KeyBlocks blocks(document, sizes, tiles, kv_heads);
    const int64_t work = blocks.work();
    FarRows far = part.sees_only_near() ? FarRows{} : far_rows(document, tiles);
    far_floats += kv_heads * far.count * far_width;
    all.push_back({&document, std::move(blocks), std::move(far), work});
  }
  largest_first(all);
  const Tensor far_sums = Tensor::empty({far_floats}, Dtype::f32);
  float* next_far = far_sums.data<float>();

  std::deque<BackwardHead> heads;
  std::vector<const BackwardHead*> far_heads;
  for (const DocumentParts& document : all) {
    for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      BackwardHead& head = heads.emplace_back();
      head.document = document.document;
      head.heads = {group, kv_head};
      head.blocks = &document.blocks;
      head.sums = std::make_unique<QuerySums[]>(static_cast<size_t>(document.blocks.tiles()));
      for (int64_t tile = 0; tile < document.blocks.tiles(); ++tile) {
        head.sums[tile].turn.begin_at(document.blocks.first_of(tile));
      }
      if (document.far.count == 0) continue;
      head.far = &document.far;
      head.far_dkey = next_far;
      head.far_dvalue = next_far + document.far.count * sizes.width_stride;
      next_far += document.far.count * far_width;
      far_heads.push_back(&head);
    }
  }
  const int64_t piece = (sizes.width_stride + 1) * sizes.isa.backward_lanes;
  parallel_for(static_cast<int64_t>(far_heads.size()), [&](int64_t i) {
    Pieces pieces(piece, most_tiles);
    Backward(args, results, sizes, *far_heads[static_cast<size_t>(i)], pieces).run_far();
  });
  BlocksToDo to_do(heads);
  parallel_for(ThreadPool::global().num_threads(), [&](int64_t) {
    Pieces pieces(piece, most_tiles);
    BackwardHead* head = nullptr;
    for (int32_t block = to_do.take(head); head != nullptr; block = to_do.take(head)) {
      Turns turns(*head, block, head->blocks->tiles(block));
      Backward(args, results, sizes, *head, pieces).run(block, turns);
    }
  });
}

void attention_backward_vectors(const AttentionBackwardArgs& args) {
  const std::vector<AttentionPart> parts = args.pattern.parts();
  const std::vector<Document> documents = documents_of(args.layout);
  clear_unused_keys(args, documents);
  GradientSums sums;
  if (parts.size() > 1) {
    // Of keys and queries that see nothing in a part, it writes no gradients.
    sums = {Tensor::zeros(args.dq.shape(), Dtype::f32), Tensor::zeros(args.dk.shape(), Dtype::f32),
            Tensor::zeros(args.dv.shape(), Dtype::f32)};
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const GradientSums* before = i == 0 ? nullptr : &sums;
    const bool last = i + 1 == parts.size();
    const BackwardResults results =
        last ? BackwardResults{args.dq, args.dk, args.dv, static_cast<float>(args.scale), before}
             : BackwardResults{sums.dq, sums.dk, sums.dv, 1.0F, before};
    attention_backward_part(args, parts[i], classes_of(documents, parts[i]), results);
  }
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
  return {args.layout,    args.pattern,
          args.scale,     args.q.size(1),
          args.k.size(1), args.q.size(2),
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

AttentionVisits cpu::attention_visits(const SequenceLayout& layout, const AttentionPattern& pattern,
                                      int64_t heads, int64_t kv_heads) {
  const int64_t group = heads / kv_heads;
  const AttentionIsa& isa = attention_kernels_for_isa();
  const std::vector<Document> documents = documents_of(layout);
  AttentionVisits visits;
  for (const AttentionPart& part : pattern.parts()) {
    for (const Document& document : classes_of(documents, part)) {
      const auto count = [&](int64_t tile_lanes) {
        const QueryTiles tiles(document, part, group, tile_lanes, isa.vector_lanes);
        int64_t scores = 0;
        for (int64_t tile = 0; tile < tiles.count(); ++tile) {
          const KeyRange near = tiles.span(tile);
          const auto far = static_cast<int64_t>(tiles.far_keys(tile).keys.size());
          scores += tiles.lanes(tile) * (near.end - near.begin + far);
        }
        return kv_heads * scores;
      };
      visits.forward += count(isa.forward_lanes);
      visits.backward += count(isa.backward_lanes);
    }
  }
  return visits;
}

void cpu::attention(Stream, const AttentionArgs& args) {
  if (args.q.dtype() == Dtype::f64) return attention_f64(args);
  attention_vectors(args);
}

void cpu::attention_backward(Stream, const AttentionBackwardArgs& args) {
  if (args.q.dtype() == Dtype::f64) return attention_backward_f64(args);
  attention_backward_vectors(args);
}

}  // namespace sidewinder
