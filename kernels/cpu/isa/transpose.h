#pragma once
// Exchanges between the lanes of several vectors: transposing a square of them, and summing each
// over its lanes.

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {

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

// Lanes without the bit kStep of both vectors: a's stay, b's move up by kStep. Or the lanes with
// it.
template <int kStep>
constexpr int exchanged(int lane, bool high) {
  if (high) return (lane & kStep) != 0 ? kLanes + lane : lane + kStep;
  return (lane & kStep) != 0 ? kLanes + lane - kStep : lane;
}

template <int kStep = 1>
inline void transpose(F32* square) {
#define SIDEWINDER_LOW(lane) exchanged<kStep>(lane, false)
#define SIDEWINDER_HIGH(lane) exchanged<kStep>(lane, true)
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    const F32 a = square[i];
    const F32 b = square[i + kStep];
    square[i] = SIDEWINDER_SHUFFLE(a, b, SIDEWINDER_LOW);
    square[i + kStep] = SIDEWINDER_SHUFFLE(a, b, SIDEWINDER_HIGH);
  }
#undef SIDEWINDER_LOW
#undef SIDEWINDER_HIGH
  if constexpr (kStep * 2 < kLanes) transpose<kStep * 2>(square);
}

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
