#pragma once
// What the forward and backward loops of the selective scan share: the discretisation, the order of
// states in memory and in vectors, and the pieces of a tile between document starts.

#include "kernels/cpu/isa/pack.h"
#include "kernels/cpu/isa/row_prefetch.h"
#include "kernels/cpu/isa/selective_scan.h"
#include "kernels/cpu/isa/strip.h"
#include "kernels/cpu/isa/transpose.h"

namespace sidewinder::SIDEWINDER_ISA {

void selective_scan_backward(const ScanBackwardItem& item);
void selective_scan_add_groups(const ScanGroupSums& sums);
int64_t selective_scan_backward_scratch(int channels, int states);
int64_t selective_scan_sums(int channels, int states);

inline int padded_states(int states) {
  return (states + kScanStatePadding - 1) / kScanStatePadding * kScanStatePadding;
}

// The state after a token, from the decayed one before it. Fused explicitly: the forward and the
// backward pass must compute the same state.
[[gnu::always_inline]] inline F32 next_state(F32 decayed, F32 input, float b) {
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
[[gnu::always_inline]] inline Softplus<kCount> softplus(const Pack<kCount>& x) {
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

// The largest |rate| of each channel: where δ times it stays below Exp2::kNear, decays need no
// care.
inline F32 largest_rate(const F32* rates, int padded) {
  F32 largest = {};
  for (int n = 0; n < padded; ++n) largest = max(largest, max(rates[n], -rates[n]));
  return largest;
}
inline bool all_near(F32 largest_delta, F32 rate) {
  const F32 far = largest_delta * rate < Exp2::kNear ? F32{} : broadcast(1.0F);  // 1 where NaN
  return max_lanes(far) == 0.0F;
}

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
// Streamed: stream_fence() must follow.
inline void store_states(float* p, int64_t stride, int count, int states, const F32* vectors) {
  int n = 0;
  for (; count == kLanes && n + kLanes <= states; n += kLanes) {
    F32 square[kLanes];
    for (int i = 0; i < kLanes; ++i) square[i] = vectors[n + i];
    transpose(square);
    for (int i = 0; i < kLanes; ++i) stream(p + i * stride + n, square[i]);
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

}  // namespace sidewinder::SIDEWINDER_ISA
