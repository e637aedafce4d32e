// Attention: a work item is some tiles of queries of one document and key/value head. Parts of a
// pattern run one after the other; between them, softmax and products wait in f32.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/attention_pass.h"

namespace sidewinder::cpu {
namespace {

constexpr int64_t kLanesPerItem = 960;
constexpr int64_t kFewLanes = 4;           // documents with no more are not worth a tile
constexpr int64_t kBlockWords = 1 << 16;   // packed keys and values: 256 KiB
constexpr int64_t kInTurnWords = 3 << 16;  // those of a tile that is finished before others

constexpr float kNoScore = -1e30F;  // the maximum of lanes that have seen no key
constexpr float kLn2 = 0.69314718055994530942F;

// lse of probabilities that were summed relative to a reference, which is in base 2.
float lse_of(float reference, float sum) {
  return sum == 0 ? -std::numeric_limits<float>::infinity() : reference * kLn2 + std::log(sum);
}

// What parts of a pattern found.
struct Unfinished {
  Tensor out;        // [T, H, Pv] Σ P·v
  Tensor reference;  // [T, H], as in a tile
  Tensor sum;        // [T, H] Σ P; 0: nothing was seen yet
  Tensor divisor;    // [T, H] of out
};

struct Item {
  AttentionHead head;
  TileRange tiles;
  int64_t work;  // tiles · keys
};

class Forward {
 public:
  // Goes on from `before`, if it is not null, and leaves what is found in `after` or, if that is
  // null, in the results.
  Forward(const AttentionArgs& args, const AttentionSizes& sizes, const Item& item,
          const Unfinished* before, const Unfinished* after)
      : args_(args),
        sizes_(sizes),
        head_(item.head),
        range_(item.tiles),
        before_(before),
        after_(after),
        tile_lanes_(sizes.isa.forward_lanes),
        query_tiles_(sizes.tiles(*head_.document, tile_lanes_)),
        span_({query_tiles_.span(range_.begin).begin, query_tiles_.span(range_.end - 1).end}),
        in_turn_(are_in_turn()),
        block_(in_turn_ ? span_.end - span_.begin
                        : std::min(keys_per_block(kBlockWords, words_per_key()),
                                   round_up(head_.document->keys(), 2))),
        key_stride_(transposed_stride(block_)),
        tiles_(static_cast<size_t>(in_turn_ ? 1 : range_.end - range_.begin)) {
    workspace_.take_all([this](AttentionWorkspace& workspace) {
      keys_ = workspace.take(sizes_.steps * key_stride_);
      values_ = workspace.take(block_ / sizes_.pair * sizes_.value_stride);
      for (Tile& tile : tiles_) place(tile, workspace);
    });
  }

  void run() { in_turn_ ? run_in_turn() : run_by_blocks(); }

 private:
  struct Tile {
    int64_t index, first_lane, lanes;
    KeyRange span;
    TileKeys visible;
    float *queries, *slopes;
    AttentionForwardTile work;  // all but the keys
  };

  int64_t words_per_key() const { return sizes_.steps + sizes_.value_stride / sizes_.pair; }

  bool are_in_turn() const {
    if (!sizes_.part.sees_only_near() || sizes_.part.needs_visibility()) return false;
    int64_t keys = 0;
    for (int64_t i = range_.begin; i < range_.end; ++i) {
      const KeyRange span = query_tiles_.span(i);
      keys = std::max<int64_t>(keys, span.end - span.begin);
    }
    return keys * words_per_key() <= kInTurnWords;
  }

  // One tile after the other, whose sums stay in the first cache; keys are packed just before the
  // first tile that sees them.
  void run_in_turn() {
    const HeadRows queries = head_.queries(args_.q);
    const HeadRows keys = head_.keys(args_.k);
    const HeadRows values = head_.keys(args_.v);
    const HeadRows out = head_.queries(args_.out);
    Tile& tile = tiles_.front();
    KeyRange next = {span_.begin, span_.begin};  // keys to be packed
    for (int64_t i = range_.begin; i < range_.end; ++i) {
      begin(i, tile);
      const int64_t missing = std::max(0, tile.span.end - next.begin);
      const int64_t end = next.begin + round_up(missing, sizes_.isa.vector_lanes);
      next.end = static_cast<int32_t>(std::min<int64_t>(end, span_.end));
      pack_near(next, span_.begin);
      next.begin = next.end;
      RowsAhead& ahead = tile.work.ahead;
      ahead = {};
      ahead.pieces[0] = rows_ahead(out, tile.first_lane, tile.lanes);
      if (i + 1 < range_.end) {
        const int64_t lanes = query_tiles_.lanes(i + 1);
        const int64_t count = std::min(lanes / head_.group, head_.document->keys() - next.begin);
        ahead.pieces[1] = rows_ahead(keys, next.begin, count);
        ahead.pieces[2] = rows_ahead(values, next.begin, count);
        ahead.pieces[3] = rows_ahead(queries, query_tiles_.first_lane(i + 1), lanes);
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
            rows.heads * rows.width * element, divide_up(first + count, rows.heads) - token};
  }

  // All tiles for each block of keys.
  void run_by_blocks() {
    for (size_t i = 0; i < tiles_.size(); ++i) {
      begin(range_.begin + static_cast<int64_t>(i), tiles_[i]);
    }
    for (int32_t begin = span_.begin; begin < span_.end; begin += static_cast<int32_t>(block_)) {
      visit({begin, static_cast<int32_t>(std::min<int64_t>(begin + block_, span_.end))});
    }
    for (Tile& tile : tiles_) {
      visit_far(tile);
      store(tile);
    }
  }

  void place(Tile& tile, AttentionWorkspace& workspace) {
    tile.queries = workspace.take(sizes_.steps * tile_lanes_);
    float* const out = workspace.take(sizes_.value_stride * tile_lanes_);
    float* const reference = workspace.take(tile_lanes_);
    float* const sum = workspace.take(tile_lanes_);
    float* const divisor = workspace.take(tile_lanes_);
    tile.slopes = args_.slopes.defined() ? workspace.take(tile_lanes_) : nullptr;
    tile.work = {.visible = nullptr,
                 .block = {},
                 .origin = 0,
                 .queries = tile.queries,
                 .keys = keys_,
                 .key_stride = key_stride_,
                 .values = values_,
                 .width = sizes_.width,
                 .value_width = sizes_.value_width,
                 .score_scale = static_cast<float>(std::abs(args_.scale) * kLog2E),
                 .slopes = tile.slopes,
                 .out = out,
                 .reference = reference,
                 .sum = sum,
                 .divisor = divisor,
                 .ahead = {}};
  }

  void begin(int64_t index, Tile& tile) {
    tile.index = index;
    tile.first_lane = query_tiles_.first_lane(index);
    tile.lanes = query_tiles_.lanes(index);
    tile.span = query_tiles_.span(index);
    query_tiles_.near(index, tile.visible);
    sizes_.functions.pack_transposed(head_.queries(args_.q), tile.first_lane, tile.lanes,
                                     tile_lanes_, tile.queries, tile_lanes_);
    if (args_.slopes.defined()) {
      head_.fill_slopes(args_.slopes, tile.first_lane, tile.lanes, tile_lanes_, tile.slopes);
    }
    if (args_.scale < 0) negate(tile.queries, sizes_.steps * tile_lanes_);
    std::fill_n(tile.work.out, sizes_.value_stride * tile_lanes_, 0.0F);
    std::fill_n(tile.work.reference, tile_lanes_, kNoScore);
    std::fill_n(tile.work.sum, tile_lanes_, 0.0F);
    std::fill_n(tile.work.divisor, tile_lanes_, 0.0F);
    if (before_ != nullptr) go_on(*before_, tile);
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
    const int64_t count = std::min<int64_t>(keys.end, head_.document->keys()) - keys.begin;
    pack(head_.keys(args_.k), head_.keys(args_.v), keys.begin, count, keys.end - keys.begin,
         keys.begin - origin);
  }

  void visit(KeyRange block) {
    pack_near(block, block.begin);
    for (Tile& tile : tiles_) {
      const KeyRange range = intersection(tile.span, block);
      if (is_empty(range)) continue;
      query_tiles_.add_bits(tile.index, range, tile.visible);
      multiply(tile, tile.visible, range, block.begin);
    }
  }

  void visit_far(Tile& tile) {
    far_.for_each_block(
        head_, query_tiles_, tile.index, args_.k, args_.v, block_,
        [&](const HeadRows& keys, const HeadRows& values, const TileKeys& visible, int64_t count) {
          const int64_t padded = round_up(count, 2);
          pack(keys, values, 0, count, padded, 0);
          multiply(tile, visible, {0, static_cast<int32_t>(padded)}, 0);
        });
  }

  void multiply(Tile& tile, const TileKeys& visible, KeyRange range, int32_t origin) const {
    tile.work.visible = &visible;
    tile.work.block = range;
    tile.work.origin = origin;
    sizes_.functions.forward(tile.work);
  }

  // function(i, x) for the statistic x of every lane i of the tile.
  template <typename Function>
  void for_each_of(const Tensor& statistic, const Tile& tile, const Function& function) const {
    for_each_statistic(head_.statistics(statistic), tile.first_lane, tile.lanes, function);
  }

  void store(const Tile& tile) const {
    if (after_ != nullptr) return leave(*after_, tile);
    const AttentionForwardTile& work = tile.work;
    for_each_of(args_.lse, tile, [&](int64_t i, float& lse) {
      lse = lse_of(work.reference[i], work.sum[i]);
      work.divisor[i] = work.divisor[i] == 0 ? 0.0F : 1.0F / work.divisor[i];
    });
    sizes_.functions.store_columns(work.out, tile_lanes_, work.divisor, head_.queries(args_.out),
                                   tile.first_lane, tile.lanes);
  }

  void go_on(const Unfinished& before, const Tile& tile) const {
    const AttentionForwardTile& work = tile.work;
    sizes_.isa.f32.pack_transposed(head_.queries(before.out), tile.first_lane, tile.lanes,
                                   tile_lanes_, work.out, tile_lanes_);
    for_each_of(before.sum, tile, [&](int64_t i, float sum) { work.sum[i] = sum; });
    for_each_of(before.divisor, tile, [&](int64_t i, float sum) { work.divisor[i] = sum; });
    for_each_of(before.reference, tile, [&](int64_t i, float reference) {
      if (work.sum[i] != 0) work.reference[i] = reference;
    });
  }

  void leave(const Unfinished& after, const Tile& tile) const {
    const AttentionForwardTile& work = tile.work;
    for_each_of(after.sum, tile, [&](int64_t i, float& sum) { sum = work.sum[i]; });
    for_each_of(after.divisor, tile, [&](int64_t i, float& sum) { sum = work.divisor[i]; });
    for_each_of(after.reference, tile,
                [&](int64_t i, float& reference) { reference = work.reference[i]; });
    std::fill_n(work.sum, tile_lanes_, 1.0F);
    sizes_.isa.f32.store_columns(work.out, tile_lanes_, work.sum, head_.queries(after.out),
                                 tile.first_lane, tile.lanes);
  }

  const AttentionArgs& args_;
  const AttentionSizes& sizes_;
  const AttentionHead& head_;
  TileRange range_;
  const Unfinished* before_;
  const Unfinished* after_;
  int64_t tile_lanes_;
  QueryTiles query_tiles_;
  KeyRange span_;  // keys that its tiles visit
  bool in_turn_;   // no tile visits more keys than stay in the cache
  int64_t block_;  // keys that are packed at once
  int64_t key_stride_;
  std::vector<Tile> tiles_;
  float* keys_ = nullptr;
  float* values_ = nullptr;
  AttentionWorkspace workspace_;
  FarKeyCopies far_;
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
void attend_few(const AttentionArgs& args, const AttentionSizes& sizes, const AttentionHead& head) {
  const int64_t lanes = head.document->tokens * head.group;
  std::vector<KeyRange> visible;
  int64_t ranges_end[kFewLanes];
  int64_t position[kFewLanes];
  for (int64_t lane = 0; lane < lanes; ++lane) {
    position[lane] = head.document->past + lane / head.group;
    add_ranges(sizes.part.pattern, position[lane], visible);
    ranges_end[lane] = static_cast<int64_t>(visible.size());
  }
  float largest[kFewLanes];
  float sum[kFewLanes];
  float slopes[kFewLanes];
  if (args.slopes.defined()) head.fill_slopes(args.slopes, 0, lanes, lanes, slopes);
  const Tensor work = Tensor::empty({sizes.width_stride + sizes.value_stride}, Dtype::f32);
  sizes.functions.few_queries({.queries = head.queries(args.q),
                               .out = head.queries(args.out),
                               .keys = head.keys(args.k),
                               .values = head.keys(args.v),
                               .lanes = lanes,
                               .visible = visible.data(),
                               .ranges_end = ranges_end,
                               .position = position,
                               .score_scale = static_cast<float>(args.scale * kLog2E),
                               .slopes = args.slopes.defined() ? slopes : nullptr,
                               .query = work.data<float>(),
                               .mixed = work.data<float>() + sizes.width_stride,
                               .largest = largest,
                               .sum = sum});
  for_each_statistic(head.statistics(args.lse), 0, lanes,
                     [&](int64_t lane, float& lse) { lse = lse_of(largest[lane], sum[lane]); });
}

void attend_part(const AttentionArgs& args, const AttentionPart& part,
                 const std::vector<Document>& documents, const Unfinished* before,
                 const Unfinished* after) {
  const AttentionSizes sizes(args.q, args.v, part);
  const int64_t tiles_per_item = std::max<int64_t>(1, kLanesPerItem / sizes.isa.forward_lanes);
  std::vector<Item> items;
  for (const Document& document : documents) {
    const QueryTiles tiles = sizes.tiles(document, sizes.isa.forward_lanes);
    for (int64_t begin = 0, end = 0; begin < tiles.count(); begin = end) {
      end = begin + tiles_per_item;
      // A short rest would pack the keys for a few queries.
      if (end + tiles_per_item / 2 >= tiles.count()) end = tiles.count();
      const int64_t keys = tiles.span(end - 1).end - tiles.span(begin).begin;
      for (int64_t kv_head = 0; kv_head < sizes.kv_heads; ++kv_head) {
        items.push_back({{&document, sizes.group, kv_head}, {begin, end}, (end - begin) * keys});
      }
    }
  }
  largest_first(items);
  const bool whole = before == nullptr && after == nullptr;
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i) {
    const Item& item = items[static_cast<size_t>(i)];
    if (whole && item.head.document->tokens * sizes.group <= kFewLanes) {
      attend_few(args, sizes, item.head);
    } else {
      Forward(args, sizes, item, before, after).run();
    }
  });
}

}  // namespace

void attention_forward(const AttentionArgs& args) {
  const std::vector<AttentionPart> parts = args.pattern.parts();
  std::vector<Document> documents = documents_of(args.layout);
  if (parts.size() == 1) {
    return attend_part(args, parts[0], classes_of(documents, parts[0]), nullptr, nullptr);
  }
  // Documents of few queries are not worth a tile, let alone one per class: the whole rule is
  // asked.
  const int64_t group = args.q.size(1) / args.k.size(1);
  const auto few = std::stable_partition(
      documents.begin(), documents.end(),
      [&](const Document& document) { return document.tokens * group > kFewLanes; });
  if (few != documents.end()) {
    attend_part(args, {.pattern = args.pattern}, {few, documents.end()}, nullptr, nullptr);
    documents.erase(few, documents.end());
  }
  if (documents.empty()) return;
  const Shape statistics = args.lse.shape();
  const Unfinished unfinished = {
      Tensor::zeros(args.out.shape(), Dtype::f32), Tensor::empty(statistics, Dtype::f32),
      Tensor::zeros(statistics, Dtype::f32), Tensor::zeros(statistics, Dtype::f32)};
  for (size_t i = 0; i < parts.size(); ++i) {
    attend_part(args, parts[i], classes_of(documents, parts[i]), i == 0 ? nullptr : &unfinished,
                i + 1 == parts.size() ? nullptr : &unfinished);
  }
}

}  // namespace sidewinder::cpu
