#pragma once
// Exchanges between the lanes of several vectors: transposing a square of them, and summing each
// over its lanes.

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {

// Lane j of row i to lane i of row j.
#if defined(__AVX512F__)
[[gnu::always_inline]] inline void transpose(F32 (&rows)[kLanes]) {
  __m512 t[16];
  __m512 u[16];
  for (int i = 0; i < 16; ++i) t[i] = reinterpret_cast<__m512>(rows[i]);
  for (int i = 0; i < 8; ++i) {
    u[2 * i] = _mm512_unpacklo_ps(t[2 * i], t[2 * i + 1]);
    u[2 * i + 1] = _mm512_unpackhi_ps(t[2 * i], t[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    const auto pair = [&](int j) { return _mm512_castps_pd(u[4 * i + j]); };
    t[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pair(0), pair(2)));
    t[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pair(0), pair(2)));
    t[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pair(1), pair(3)));
    t[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pair(1), pair(3)));
  }
  for (int i = 0; i < 4; ++i) {
    u[i] = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
    u[i + 4] = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
    u[i + 8] = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
    u[i + 12] = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = reinterpret_cast<F32>(_mm512_shuffle_f32x4(u[i], u[i + 8], 0x88));
    rows[i + 8] = reinterpret_cast<F32>(_mm512_shuffle_f32x4(u[i], u[i + 8], 0xdd));
  }
}
#elif defined(__AVX2__)
[[gnu::always_inline]] inline void transpose(F32 (&rows)[kLanes]) {
  __m256 t[8];
  __m256 u[8];
  for (int i = 0; i < 8; ++i) t[i] = reinterpret_cast<__m256>(rows[i]);
  for (int i = 0; i < 4; ++i) {
    u[2 * i] = _mm256_unpacklo_ps(t[2 * i], t[2 * i + 1]);
    u[2 * i + 1] = _mm256_unpackhi_ps(t[2 * i], t[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    t[4 * i] = _mm256_shuffle_ps(u[4 * i], u[4 * i + 2], 0x44);
    t[4 * i + 1] = _mm256_shuffle_ps(u[4 * i], u[4 * i + 2], 0xee);
    t[4 * i + 2] = _mm256_shuffle_ps(u[4 * i + 1], u[4 * i + 3], 0x44);
    t[4 * i + 3] = _mm256_shuffle_ps(u[4 * i + 1], u[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = reinterpret_cast<F32>(_mm256_permute2f128_ps(t[i], t[i + 4], 0x20));
    rows[i + 4] = reinterpret_cast<F32>(_mm256_permute2f128_ps(t[i], t[i + 4], 0x31));
  }
}
#else
[[gnu::always_inline]] inline void transpose(F32 (&rows)[kLanes]) {
  float m[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) store(m[i], rows[i]);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) rows[i][j] = m[j][i];
  }
}
#endif

// A vector whose lane l is lane kIndex(l) of a (kLanes and up: of b).
#if defined(__AVX512F__)
#define SIDEWINDER_SHUFFLE(a, b, index)                                                            \
  __builtin_shufflevector(a, b, index(0), index(1), index(2), index(3), index(4), index(5),        \
                          index(6), index(7), index(8), index(9), index(10), index(11), index(12), \
                          index(13), index(14), index(15))
#elif defined(__AVX2__)
#define SIDEWINDER_SHUFFLE(a, b, index)                                                     \
  __builtin_shufflevector(a, b, index(0), index(1), index(2), index(3), index(4), index(5), \
                          index(6), index(7))
#else
#define SIDEWINDER_SHUFFLE(a, b, index) \
  __builtin_shufflevector(a, b, index(0), index(1), index(2), index(3))
#endif

// The patterns of one-instruction shuffles. Inside blocks of 4 lanes: alternate the first (or
// second) halves of a's and b's block, kStep lanes at a time. Beyond: the even (or odd) blocks of
// a, then b.
template <int kStep>
constexpr int folded(int lane, bool high) {
  const int block = lane / 4;
  const int inside = lane % 4;
  if constexpr (kStep < 4) {
    const int source = inside / (2 * kStep) * kStep + inside % kStep + (high ? 2 : 0);
    return (inside / kStep % 2 != 0 ? kLanes : 0) + block * 4 + source;
  } else {
    const int half = kLanes > 4 ? kLanes / 8 : 1;  // blocks
    return (block >= half ? kLanes : 0) + (block % half * 2 + (high ? 1 : 0)) * 4 + inside;
  }
}

// Level kStep = 1, 2, 4, … of a tree that sums kLanes vectors over their lanes: a and b hold the
// sums of kStep vectors each. At its root lane i is the sum of vector i.
template <int kStep>
inline F32 fold(F32 a, F32 b) {
#define SIDEWINDER_LOW(lane) folded<kStep>(lane, false)
#define SIDEWINDER_HIGH(lane) folded<kStep>(lane, true)
  return SIDEWINDER_SHUFFLE(a, b, SIDEWINDER_LOW) + SIDEWINDER_SHUFFLE(a, b, SIDEWINDER_HIGH);
#undef SIDEWINDER_LOW
#undef SIDEWINDER_HIGH
}

#undef SIDEWINDER_SHUFFLE

}  // namespace sidewinder::SIDEWINDER_ISA
