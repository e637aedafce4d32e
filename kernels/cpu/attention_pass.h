#pragma once
// What the forward and the backward pass of attention share: tensors as rows of one head, sizes,
// work space, and far keys side by side.
//
// Everything is laid out relative to a document: tiles of queries, blocks of keys and work items
// begin where it begins. So a token's bits do not depend on what else is in the batch.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/base/rounding.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/ops/attention.h"

namespace sidewinder::cpu {

void attention_forward(const AttentionArgs& args);
void attention_gradients(const AttentionBackwardArgs& args);

inline constexpr float kLog2E = 1.44269504088896340736F;

// A key/value head of a document, and the query heads that use it.
struct AttentionHead {
  const Document* document;
  int64_t group;  // query heads
  int64_t index;  // of the key/value head

  HeadRows queries(const Tensor& like_q) const;  // lanes of the tiles
  HeadRows statistics(const Tensor& like_lse) const;
  HeadRows keys(const Tensor& like_k) const;
  // Of the bias, base 2; those of lanes past the last query are zero.
  void fill_slopes(const Tensor& slopes, int64_t first_lane, int64_t lanes, int64_t padded,
                   float* result) const;
};

// function(i, the statistic of lane first + i) for 0 ≤ i < count.
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

// What all items of a part of a pattern share.
struct AttentionSizes {
  const AttentionIsa& isa;
  const AttentionFunctions& functions;
  int64_t pair;
  int64_t width, value_width;
  int64_t width_stride, value_stride;  // padded to whole vectors
  int64_t steps, value_steps;          // words of a packed row
  int64_t kv_heads, group;
  AttentionPart part;  // within documents as classes_of cuts them

  AttentionSizes(const Tensor& q, const Tensor& v, const AttentionPart& part_of_pattern);

  QueryTiles tiles(const Document& document, int64_t tile_lanes) const {
    return {document, part, group, tile_lanes, isa.vector_lanes};
  }
  // Those that read and write rows of `tensor`, whose type may not be that of q.
  const AttentionFunctions& rows_like(const Tensor& tensor) const {
    return tensor.dtype() == Dtype::bf16 ? isa.bf16 : isa.f32;
  }
};

// Keys that are packed at once, so that they stay in the cache while all queries go over them.
inline int64_t keys_per_block(int64_t words, int64_t words_per_key) {
  return std::max<int64_t>(96, words / words_per_key / 96 * 96);
}
// Distance of two steps of transposed keys: not a multiple of the page, which would map them all to
// one set of the cache.
inline int64_t transposed_stride(int64_t keys) { return round_up(keys, 16) + 16; }

// Pieces of one tensor.
class AttentionWorkspace {
 public:
  // Runs hand_out(*this) to count what it takes, and again to give it that.
  template <typename HandOut>
  void take_all(const HandOut& hand_out) {
    hand_out(*this);
    memory_ = Tensor::empty({used_}, Dtype::f32);
    next_ = memory_.data<float>();
    hand_out(*this);
  }
  float* take(int64_t floats) {
    const int64_t padded = round_up(floats, 16);
    used_ += padded;
    return next_ == nullptr ? nullptr : std::exchange(next_, next_ + padded);
  }

 private:
  Tensor memory_;
  int64_t used_ = 0;
  float* next_ = nullptr;
};

// Copies the far keys of a tile side by side.
class FarKeyCopies {
 public:
  // Calls visit(keys, values, visible, count) for at most `most` of them at a time.
  template <typename Visit>
  void for_each_block(const AttentionHead& head, QueryTiles& tiles, int64_t tile, const Tensor& k,
                      const Tensor& v, int64_t most, const Visit& visit) {
    const FarKeys far = tiles.far_keys(tile);
    const auto total = static_cast<int64_t>(far.keys.size());
    for (int64_t begin = 0; begin < total; begin += most) {
      const int64_t count = std::min(most, total - begin);
      const TileKeys visible = tiles.far(tile, far, begin, begin + count);
      visit(copy(head, k, visible.positions, count, keys_),
            copy(head, v, visible.positions, count, values_), visible, count);
    }
  }

 private:
  static HeadRows copy(const AttentionHead& head, const Tensor& tensor, const int32_t* positions,
                       int64_t count, std::vector<char>& bytes);

  std::vector<char> keys_, values_;
};

// So that the threads end together. Each item has its own results: the order changes no bits.
template <typename Item>
void largest_first(std::vector<Item>& items) {
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.work > b.work; });
}

}  // namespace sidewinder::cpu
