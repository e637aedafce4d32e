#pragma once
// What the forward and backward loops of the selective scan share: the discretisation, the order of
// states in memory and in vectors, and the pieces of a tile between document starts.

#include "kernels/cpu/isa/pack.h"
#include "kernels/cpu/isa/selective_scan.h"
#include "kernels/cpu/isa/strip.h"
#include "kernels/cpu/isa/transpose.h"

namespace sidewinder::SIDEWINDER_ISA {

void selective_scan_backward(const ScanBackwardItem& item);
int64_t selective_scan_backward_scratch(int channels, int states);
int64_t selective_scan_sums(int channels, int states);

inline int padded_states(int states) {
  return (states + kScanStatePadding - 1) / kScanStatePadding * kScanStatePadding;
}

// The state after a token, from the decayed one before it. Fused explicitly: the forward and the
// backward pass must compute the same state.
inline F32 next_state(F32 decayed, F32 input, float b) {
  return multiply_add(input, broadcast(b), decayed);
}

template <int kCount>
struct Softplus {
  Pack<kCount> value;
  Pack<kCount> slope;  // its derivative, σ(x)
};

// With y = e^−|x| and s = y/(2 + y):  softplus(x) = max(x, 0) + log1p(y),  log1p(y) = 2·artanh(s),
// an odd polynomial of s ≤ 1/3 (relative error 4e-9). Above 20 it is the identity by rounding.
template <int kCount>
inline Softplus<kCount> softplus(const Pack<kCount>& x) {
  const Pack<kCount> y = exp(map([](F32 v) { return v > 0.0F ? -v : v; }, x));
  const Pack<kCount> s = map([](F32 v, F32 r) { return v * r; }, y,
                             reciprocal(map([](F32 v) { return 2.0F + v; }, y)));
  const Pack<kCount> w = map([](F32 v) { return v * v; }, s);
  Pack<kCount> p = map(
      [](F32 v) { return multiply_add(broadcast(0.281577784F), v, broadcast(0.279651577F)); }, w);
  const float coefficients[] = {0.400245952F, 0.666663216F, 2.0F};
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    p = map([&](F32 q, F32 v) { return multiply_add(q, v, broadcast(coefficients[i])); }, p, w);
  }
  const Pack<kCount> inverse = reciprocal(map([](F32 v) { return 1.0F + v; }, y));
  return {map([](F32 v, F32 q, F32 r) { return multiply_add(v, q, max(r, F32{})); }, s, p, x),
          map([](F32 r, F32 v, F32 i) { return r > 0.0F ? i : v * i; }, x, y, inverse)};
}

// Tokens whose chains of operations run side by side.
constexpr int kTogether = 4;

// Calls of(Pack size, t) for the tokens [0, tokens), kTogether at a time and the rest one by one.
template <typename Of>
inline void for_each_pack(int tokens, Of&& of) {
  int t = 0;
  for (; t + kTogether <= tokens; t += kTogether) of(Pack<kTogether>{}, t);
  for (; t < tokens; ++t) of(Pack<1>{}, t);
}

// Rows t, t + 1, … of a strip, or of a buffer of a tile.
template <typename T, int kCount>
inline Pack<kCount> load_rows(const Pack<kCount>&, const T* p, int64_t stride, int t, int count) {
  Pack<kCount> rows;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) rows.at[i] = load_strip(p + (t + i) * stride, count);
  return rows;
}
template <typename T, int kCount>
inline void store_rows(T* p, int64_t stride, int t, int count, const Pack<kCount>& rows) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) store_strip(p + (t + i) * stride, rows.at[i], count);
}
template <int kCount>
inline Pack<kCount> load_rows(const Pack<kCount>&, const F32* buffer, int t) {
  Pack<kCount> rows;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) rows.at[i] = buffer[t + i];
  return rows;
}
template <int kCount>
inline void store_rows(F32* buffer, int t, const Pack<kCount>& rows) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) buffer[t + i] = rows.at[i];
}

// Asks for the rows of the next tile, one line of each tensor at a step, while this tile is worked
// on. Rows are kilobytes apart, so that the hardware does not foresee them, and a burst of requests
// would stall the core.
class RowPrefetch {
 public:
  static constexpr int kMost = 4;

  // Strips of `row_bytes` bytes are walked `strip_bytes` at a step.
  RowPrefetch(int64_t row_bytes, int64_t strip_bytes)
      : row_bytes_(row_bytes), strip_bytes_(strip_bytes) {}

  void add(const void* first_row, int64_t stride_bytes) {
    if (first_row == nullptr) return;
    row_[count_] = static_cast<const char*>(first_row);
    stride_[count_] = stride_bytes;
    ++count_;
  }

  template <bool kForWriting>
  void step() {
    if (offset_ % 64 < strip_bytes_) {
      for (int i = 0; i < count_; ++i) {
        __builtin_prefetch(row_[i] + offset_, kForWriting ? 1 : 0, 2);
      }
    }
    offset_ += strip_bytes_;
    if (offset_ < row_bytes_) return;
    offset_ = 0;
    for (int i = 0; i < count_; ++i) row_[i] += stride_[i];
  }

 private:
  int64_t row_bytes_, strip_bytes_;
  int64_t offset_ = 0;
  int count_ = 0;
  const char* row_[kMost];
  int64_t stride_[kMost];
};

// Between [channels, states] in memory and vectors over the channels of a strip, one per state.
inline void load_states(const float* p, int64_t stride, int count, int states, float scale,
                        F32* vectors) {
  int n = 0;
  for (; count == kLanes && n + kLanes <= states; n += kLanes) {
    F32 square[kLanes];
    for (int i = 0; i < kLanes; ++i) square[i] = load(p + i * stride + n) * scale;
    transpose(square);
    for (int i = 0; i < kLanes; ++i) vectors[n + i] = square[i];
  }
  for (; n < padded_states(states); ++n) {
    float lanes[kLanes] = {};
    for (int i = 0; n < states && i < count; ++i) lanes[i] = p[i * stride + n] * scale;
    vectors[n] = load(lanes);
  }
}
inline void store_states(float* p, int64_t stride, int count, int states, const F32* vectors) {
  int n = 0;
  for (; count == kLanes && n + kLanes <= states; n += kLanes) {
    F32 square[kLanes];
    for (int i = 0; i < kLanes; ++i) square[i] = vectors[n + i];
    transpose(square);
    for (int i = 0; i < kLanes; ++i) store(p + i * stride + n, square[i]);
  }
  for (; n < states; ++n) {
    float lanes[kLanes];
    store(lanes, vectors[n]);
    for (int i = 0; i < count; ++i) p[i * stride + n] = lanes[i];
  }
}

// Copies b or c of a tile as f32 rows of padded length.
template <typename T>
inline void load_projection(const T* p, int64_t stride, int tokens, int states, float* rows) {
  const int padded = padded_states(states);
  for (int t = 0; t < tokens; ++t) {
    int n = 0;
    for (; n + kLanes <= states; n += kLanes)
      store(rows + t * padded + n, load(p + t * stride + n));
    if (n < padded) {
      float lanes[kLanes] = {};
      if (n < states) store(lanes, load_partial(p + t * stride + n, states - n));
      for (int i = 0; n < padded; ++i, ++n) rows[t * padded + n] = i < kLanes ? lanes[i] : 0.0F;
    }
  }
}

// The pieces of tokens [0, tokens) of a tile that begin at `origin` in the row, cut at document
// starts. Calls piece(begin, end, fresh); a fresh piece begins with a zero state. `first` is the
// first reset at or after the tile's begin.
template <typename Piece>
inline void for_each_piece(const ScanGroup& in, int64_t first, int64_t origin, int tokens,
                           Piece&& piece) {
  int begin = 0;
  bool fresh = false;
  for (int64_t r = first; r < in.num_resets && in.resets[r] < origin + tokens; ++r) {
    const int reset = static_cast<int>(in.resets[r] - origin);
    if (reset > begin) piece(begin, reset, fresh);
    begin = reset;
    fresh = true;
  }
  piece(begin, tokens, fresh);
}
template <typename Piece>
inline void for_each_piece_backward(const ScanGroup& in, int64_t first, int64_t origin, int tokens,
                                    Piece&& piece) {
  int64_t last = first;
  while (last < in.num_resets && in.resets[last] < origin + tokens) ++last;
  int end = tokens;
  for (int64_t r = last - 1; r >= first; --r) {
    const int reset = static_cast<int>(in.resets[r] - origin);
    piece(reset, end, true);
    end = reset;
  }
  if (end > 0) piece(0, end, false);
}

inline int64_t first_reset_from(const ScanGroup& in, int64_t origin) {
  int64_t low = 0;
  for (int64_t high = in.num_resets; low < high;) {
    const int64_t middle = (low + high) / 2;
    if (in.resets[middle] < origin) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace sidewinder::SIDEWINDER_ISA
