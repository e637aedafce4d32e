#include "kernels/cpu/isa/embedding.h"

#include "kernels/cpu/isa/elementwise.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// Rows of the table lie anywhere, so they are asked for some tokens ahead.
inline constexpr int64_t kAhead = 8;

template <typename Y>
void forward(const EmbeddingRows& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    Y* y = static_cast<Y*>(a.y) + t * a.y_stride;
    const float* row = a.table + a.ids[t] * a.table_stride;
    const float* ahead = a.table + a.ids[t + kAhead < a.tokens ? t + kAhead : t] * a.table_stride;
    for_each_pair(
        a.columns,
        [&](int64_t i) {
          prefetch(ahead + i, 0);
          prefetch(ahead + i + kLanes, 0);
          store_pair(a.streams, y + i, load(row + i), load(row + i + kLanes));
        },
        [&](int64_t i, int count) { store_count(y + i, load_count(row + i, count), count); });
  }
  if (a.streams) stream_fence();
}

template <typename DY>
void backward(const EmbeddingBackwardRows& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    const DY* dy = static_cast<const DY*>(a.dy) + t * a.dy_stride;
    float* row = a.dtable + a.ids[t] * a.dtable_stride;
    const float* ahead = a.dtable + a.ids[t + kAhead < a.tokens ? t + kAhead : t] * a.dtable_stride;
    for_each_vector(a.columns, [&](int64_t i, int count) {
      prefetch(ahead + i, 0);
      prefetch(dy + i, kAhead * a.dy_stride);
      store_count(row + i, load_count(row + i, count) + load_count(dy + i, count), count);
    });
  }
}

void forward_any(const EmbeddingRows& a) { (a.y_bf16 ? forward<uint16_t> : forward<float>)(a); }
void backward_any(const EmbeddingBackwardRows& a) {
  (a.dy_bf16 ? backward<uint16_t> : backward<float>)(a);
}

}  // namespace

extern const EmbeddingLoops embedding_loops = {forward_any, backward_any};

}  // namespace sidewinder::SIDEWINDER_ISA
