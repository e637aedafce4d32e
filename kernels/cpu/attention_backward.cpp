// The gradients of attention. A work item is a block of the keys of one document and key/value
// head. It goes over the tiles of queries that see it, so that key and value gradients stay in the
// cache and are complete at its end. The query gradients of a tile are sums over the blocks that it
// sees. These add to them in turn, from the first block to the last, so that the bits do not depend
// on the threads. Blocks begin in this order too, and all with the last queries, so that a thread
// seldom waits for another that works on the block before.
//
// Far keys are gathered per tile, so their items run first, one for each document and key/value
// head that has some: they go over the tiles, add to the query gradients before all blocks, and
// leave the gradients of far keys in f32 rows of their own, which the items of the near keys add to
// theirs.

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/base/count.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/attention_pass.h"

namespace sidewinder::cpu {
namespace {

constexpr int64_t kBlockWords = 1 << 17;  // packed keys and values and their gradients: 512 KiB
// All key/value heads of a long document have about so many blocks, and shorter ones for it, so
// that there are some for many threads. Of short documents there are many.
constexpr int64_t kItems = 64;
constexpr int64_t kLongDocument = 2048;  // keys
constexpr int64_t kFewestBlockKeys = 288;
constexpr int64_t kBlockUnit = 96;  // as long as a tile: few tiles lie across the end of a block

// The keys of a document that some tile gathers, as rows of sums.
struct FarRows {
  std::vector<int32_t> row_of;  // per key, −1: none
  int64_t count = 0;
};

// How the keys of a document are cut, and which tiles each block adds to: every tile has one block
// at least, whatever it sees.
class KeyBlocks {
 public:
  KeyBlocks(const Document& document, const AttentionSizes& sizes, const QueryTiles& tiles)
      : keys_(round_up(document.keys(), 2)), size_(size_for(sizes)) {
    const auto count = std::max<int64_t>(1, divide_up(keys_, size_));
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

  int64_t size_for(const AttentionSizes& sizes) const {
    const int64_t most = keys_per_block(kBlockWords, sizes.steps + sizes.value_steps +
                                                         sizes.width_stride / sizes.pair +
                                                         sizes.width_stride + sizes.value_stride);
    if (keys_ < kLongDocument) return std::min(most, std::max<int64_t>(2, keys_));
    const int64_t wanted = keys_ * sizes.kv_heads / kItems;
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
  AttentionHead rows = {};
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
  Backward(const AttentionBackwardArgs& args, const BackwardResults& results,
           const AttentionSizes& sizes, const BackwardHead& head, Pieces& pieces)
      : args_(args),
        results_(results),
        sizes_(sizes),
        head_(head),
        rows_(head.rows),
        pieces_(pieces),
        tile_lanes_(sizes.isa.backward_lanes),
        tiles_(sizes.tiles(*rows_.document, tile_lanes_)),
        block_(head.blocks->size()),
        key_stride_(transposed_stride(block_)) {
    workspace_.take_all([this](AttentionWorkspace& workspace) { place(workspace); });
    std::fill_n(scale_, tile_lanes_, results.scale);
  }

  // Block `block` of its head.
  void run(int32_t block, Turns& turns) {
    const KeyBlocks& blocks = *head_.blocks;
    const KeyRange keys = blocks.keys(block);
    const int64_t count = std::min<int64_t>(keys.end, rows_.document->keys()) - keys.begin;
    pack_keys(rows_.keys(args_.k), rows_.keys(args_.v), keys.begin, count, keys.end - keys.begin);
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
      add(far_dkey(row), dkey(i), sizes_.width_stride);
      add(far_dvalue(row), dvalue(i), sizes_.value_stride);
    }
    if (results_.before != nullptr) {
      add_rows(results_.before->dk, keys.begin, count, tile_.dkey, sizes_.width_stride);
      add_rows(results_.before->dv, keys.begin, count, tile_.dvalue, sizes_.value_stride);
    }
    const AttentionFunctions& functions = sizes_.rows_like(results_.dk);
    functions.store_rows(tile_.dkey, results_.scale, rows_.keys(results_.dk), keys.begin, count);
    functions.store_rows(tile_.dvalue, 1.0F, rows_.keys(results_.dv), keys.begin, count);
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
  void place(AttentionWorkspace& workspace) {
    const int64_t lane_rows = tile_lanes_ / sizes_.pair;
    const int64_t key_rows = block_ / sizes_.pair;
    keys_ = workspace.take(sizes_.steps * key_stride_);
    key_pairs_ = workspace.take(key_rows * sizes_.width_stride);
    values_ = workspace.take(sizes_.value_steps * key_stride_);
    float* const dkey = workspace.take(block_ * sizes_.width_stride);
    float* const dvalue = workspace.take(block_ * sizes_.value_stride);
    queries_ = workspace.take(sizes_.steps * tile_lanes_);
    query_pairs_ = workspace.take(lane_rows * sizes_.width_stride);
    dout_ = workspace.take(sizes_.value_steps * tile_lanes_);
    dout_pairs_ = workspace.take(lane_rows * sizes_.value_stride);
    lse_ = workspace.take(tile_lanes_);
    slopes_ = args_.slopes.defined() ? workspace.take(tile_lanes_) : nullptr;
    scale_ = workspace.take(tile_lanes_);
    tile_ = {.visible = nullptr,
             .block = {},
             .origin = 0,
             .queries = queries_,
             .query_pairs = query_pairs_,
             .dout = dout_,
             .dout_pairs = dout_pairs_,
             .keys = keys_,
             .key_pairs = key_pairs_,
             .values = values_,
             .key_stride = key_stride_,
             .width = sizes_.width,
             .value_width = sizes_.value_width,
             .score_scale = static_cast<float>(args_.scale * kLog2E),
             .slopes = slopes_,
             .lse = lse_,
             .delta = nullptr,
             .dquery = nullptr,
             .dkey = dkey,
             .dvalue = dvalue};
  }

  float* dkey(int64_t i) const { return tile_.dkey + i * sizes_.width_stride; }
  float* dvalue(int64_t i) const { return tile_.dvalue + i * sizes_.value_stride; }
  float* far_dkey(int64_t row) const { return head_.far_dkey + row * sizes_.width_stride; }
  float* far_dvalue(int64_t row) const { return head_.far_dvalue + row * sizes_.value_stride; }
  float* dquery_of(int64_t tile) const { return head_.sums[tile].floats.data<float>(); }
  float* delta_of(int64_t tile) const {
    return dquery_of(tile) + sizes_.width_stride * tile_lanes_;
  }

  void visit_near(int64_t tile, KeyRange block) {
    const KeyRange seen = intersection(tiles_.span(tile), block);
    if (is_empty(seen)) return;
    TileKeys visible;
    tiles_.near(tile, visible);
    tiles_.add_bits(tile, seen, visible);
    visit_tile(tile, visible, seen, block.begin);
  }

  void visit_far(int64_t tile) {
    far_.for_each_block(
        rows_, tiles_, tile, args_.k, args_.v, block_,
        [&](const HeadRows& keys, const HeadRows& values, const TileKeys& visible, int64_t count) {
          const int64_t padded = round_up(count, 2);
          pack_keys(keys, values, 0, count, padded);
          visit_tile(tile, visible, {0, static_cast<int32_t>(padded)}, 0);
          for (int64_t i = 0; i < count; ++i) {
            const auto key = static_cast<size_t>(visible.positions[i]);
            const int32_t row = head_.far->row_of[key];
            add(dkey(i), far_dkey(row), sizes_.width_stride);
            add(dvalue(i), far_dvalue(row), sizes_.value_stride);
          }
        });
  }

  static void add(const float* from, float* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
  }
  // Rows of f32 keys or values to rows `stride` apart.
  void add_rows(const Tensor& from, int64_t first, int64_t count, float* to, int64_t stride) const {
    const HeadRows rows = rows_.keys(from);
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
    std::fill_n(tile_.dkey, padded * sizes_.width_stride, 0.0F);
    std::fill_n(tile_.dvalue, padded * sizes_.value_stride, 0.0F);
  }

  // Clears the query gradients of a tile, unless something was added before, and forms Σ dout·out.
  void begin(int64_t tile) {
    Tensor& sums = head_.sums[tile].floats;
    if (sums.defined()) return;
    sums = pieces_.take();
    const int64_t first = tiles_.first_lane(tile);
    const int64_t lanes = tiles_.lanes(tile);
    std::fill_n(dquery_of(tile), (sizes_.width_stride + 1) * tile_lanes_, 0.0F);
    if (results_.before != nullptr) {
      sizes_.isa.f32.pack_transposed(rows_.queries(results_.before->dq), first, lanes, tile_lanes_,
                                     dquery_of(tile), tile_lanes_);
    }
    sizes_.functions.row_products(rows_.queries(args_.out), rows_.queries(args_.dout), first, lanes,
                                  delta_of(tile));
  }

  // Writes the query gradients of a tile.
  void finish(int64_t tile) {
    sizes_.rows_like(results_.dq)
        .store_columns(dquery_of(tile), tile_lanes_, scale_, rows_.queries(results_.dq),
                       tiles_.first_lane(tile), tiles_.lanes(tile));
    pieces_.give_back(std::exchange(head_.sums[tile].floats, {}));
  }

  void visit_tile(int64_t tile, const TileKeys& visible, KeyRange range, int32_t origin) {
    const AttentionFunctions& functions = sizes_.functions;
    const int64_t first = tiles_.first_lane(tile);
    const int64_t lanes = tiles_.lanes(tile);
    const HeadRows queries = rows_.queries(args_.q);
    const HeadRows dout = rows_.queries(args_.dout);
    functions.pack_transposed(queries, first, lanes, tile_lanes_, queries_, tile_lanes_);
    functions.pack_pairs(queries, first, lanes, tile_lanes_, query_pairs_);
    functions.pack_transposed(dout, first, lanes, tile_lanes_, dout_, tile_lanes_);
    functions.pack_pairs(dout, first, lanes, tile_lanes_, dout_pairs_);
    std::fill_n(lse_, tile_lanes_, 0.0F);
    for_each_statistic(rows_.statistics(args_.lse), first, lanes,
                       [&](int64_t i, float value) { lse_[i] = kLog2E * value; });
    if (args_.slopes.defined()) {
      rows_.fill_slopes(args_.slopes, first, lanes, tile_lanes_, slopes_);
    }
    tile_.visible = &visible;
    tile_.block = range;
    tile_.origin = origin;
    tile_.delta = delta_of(tile);
    tile_.dquery = dquery_of(tile);
    functions.backward(tile_);
  }

  const AttentionBackwardArgs& args_;
  const BackwardResults& results_;
  const AttentionSizes& sizes_;
  const BackwardHead& head_;
  const AttentionHead& rows_;
  Pieces& pieces_;
  int64_t tile_lanes_;
  QueryTiles tiles_;
  int64_t block_;  // keys that are packed at once
  int64_t key_stride_;
  AttentionWorkspace workspace_;
  float *keys_, *key_pairs_, *values_;
  float *queries_, *query_pairs_, *dout_, *dout_pairs_;
  float *lse_, *slopes_, *scale_;
  AttentionBackwardTile tile_;
  FarKeyCopies far_;
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

void gradients_of_part(const AttentionBackwardArgs& args, const AttentionPart& part,
                       const std::vector<Document>& documents, const BackwardResults& results) {
  const AttentionSizes sizes(args.q, args.v, part);

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
    const QueryTiles tiles = sizes.tiles(document, sizes.isa.backward_lanes);
    most_tiles = std::max(most_tiles, tiles.count());
    KeyBlocks blocks(document, sizes, tiles);
    const int64_t work = blocks.work();
    FarRows far = part.sees_only_near() ? FarRows{} : far_rows(document, tiles);
    far_floats += sizes.kv_heads * far.count * far_width;
    all.push_back({&document, std::move(blocks), std::move(far), work});
  }
  largest_first(all);
  const Tensor far_sums = Tensor::empty({far_floats}, Dtype::f32);
  float* next_far = far_sums.data<float>();

  std::deque<BackwardHead> heads;
  std::vector<const BackwardHead*> far_heads;
  for (const DocumentParts& document : all) {
    for (int64_t kv_head = 0; kv_head < sizes.kv_heads; ++kv_head) {
      BackwardHead& head = heads.emplace_back();
      head.rows = {document.document, sizes.group, kv_head};
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

}  // namespace

void attention_gradients(const AttentionBackwardArgs& args) {
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
    gradients_of_part(args, parts[i], classes_of(documents, parts[i]), results);
  }
}

}  // namespace sidewinder::cpu
