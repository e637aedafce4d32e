#pragma once
// What the forward and backward loops of the selective scan share: the discretisation, the order of
// states in memory and in vectors, and the pieces of a tile between document starts.

#include "kernels/cpu/isa/selective_scan.h"
#include "kernels/cpu/isa/simd.h"
#include "kernels/cpu/isa/strip.h"
#include "kernels/cpu/isa/transpose.h"

namespace sidewinder::SIDEWINDER_ISA {

void selective_scan_backward(const ScanBackwardItem& item);
int64_t selective_scan_backward_scratch(int channels, int states);
int64_t selective_scan_sums(int channels, int states);

inline int padded_states(int states) {
  return (states + kScanStatePadding - 1) / kScanStatePadding * kScanStatePadding;
}

// a·b + c with one rounding where the level has it. Said explicitly where the forward and backward
// pass must compute the same state.
inline F32 multiply_add(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__)
  return reinterpret_cast<F32>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

// e^x of delta·a with a premultiplied by log2 e.
inline F32 decay_of(F32 delta, F32 rate) { return exp2(delta * rate); }
// The state after a token, from the decayed one before it.
inline F32 next_state(F32 decayed, F32 input, float b) {
  return multiply_add(input, broadcast(b), decayed);
}

// ln u for normal u > 0 (the polynomial of Cephes' logf, on [√½, √2]).
inline F32 log(F32 u) {
  const I32 bits = reinterpret_cast<I32>(u);
  const I32 exponent = (bits - 0x3f3504f3) >> 23;
  const F32 f = reinterpret_cast<F32>(bits - (exponent << 23)) - 1.0F;
  const F32 e = __builtin_convertvector(exponent, F32);
  F32 p = broadcast(7.0376836292e-2F);
  p = p * f - 1.1514610310e-1F;
  p = p * f + 1.1676998740e-1F;
  p = p * f - 1.2420140846e-1F;
  p = p * f + 1.4249322787e-1F;
  p = p * f - 1.6668057665e-1F;
  p = p * f + 2.0000714765e-1F;
  p = p * f - 2.4999993993e-1F;
  p = p * f + 3.3333331174e-1F;
  const F32 square = f * f;
  F32 y = p * f * square;
  y = e * -2.12194440e-4F + y;
  y = square * -0.5F + y;
  return e * 0.693359375F + (f + y);
}

struct Softplus {
  F32 value;
  F32 slope;  // its derivative, σ(x)
};

// log1p(eˣ), the identity above 20. With y = eˣ and u = fl(1 + y), log1p(y) = ln u + (y − (u −
// 1))/u to first order: the last term is what the rounding of u lost, and all of y where y is tiny.
inline Softplus softplus(F32 x) {
  const F32 y = exp(x);
  const F32 u = 1.0F + y;
  const F32 reciprocal = 1.0F / u;
  const F32 value = log(u) + (y - (u - 1.0F)) * reciprocal;
  const I32 linear = x > 20.0F;
  return {select(linear, x, value), select(linear, broadcast(1.0F), y * reciprocal)};
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
