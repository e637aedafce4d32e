#pragma once
// Squares of kLanes vectors: transposing them, and summing each over its lanes. Both exchange
// blocks of 1, 2, 4, … lanes between pairs of vectors.

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {

#if defined(__AVX512F__)
#define SIDEWINDER_EACH_LANE(f)                                                                  \
  f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), \
      f(15)
#elif defined(__AVX2__)
#define SIDEWINDER_EACH_LANE(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#else
#define SIDEWINDER_EACH_LANE(f) f(0), f(1), f(2), f(3)
#endif

// Lanes without the bit kStep of both vectors: a's stay, b's move up by kStep.
template <int kStep>
inline F32 merge_low(F32 a, F32 b) {
#define SIDEWINDER_LANE(l) ((((l)&kStep) != 0) ? kLanes + (l)-kStep : (l))
  return __builtin_shufflevector(a, b, SIDEWINDER_EACH_LANE(SIDEWINDER_LANE));
#undef SIDEWINDER_LANE
}
// Lanes with the bit kStep of both vectors: a's move down by kStep, b's stay.
template <int kStep>
inline F32 merge_high(F32 a, F32 b) {
#define SIDEWINDER_LANE(l) ((((l)&kStep) != 0) ? kLanes + (l) : (l) + kStep)
  return __builtin_shufflevector(a, b, SIDEWINDER_EACH_LANE(SIDEWINDER_LANE));
#undef SIDEWINDER_LANE
}
#undef SIDEWINDER_EACH_LANE

template <int kStep = 1>
inline void transpose(F32* square) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    const F32 a = square[i];
    const F32 b = square[i + kStep];
    square[i] = merge_low<kStep>(a, b);
    square[i + kStep] = merge_high<kStep>(a, b);
  }
  if constexpr (kStep * 2 < kLanes) transpose<kStep * 2>(square);
}

// Lane i of the result is the sum over the lanes of square[i].
template <int kStep = 1>
inline F32 sum_each(const F32* square) {
  F32 half[kLanes / (2 * kStep)];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes / (2 * kStep); ++i) {
    half[i] = merge_low<kStep>(square[2 * i], square[2 * i + 1]) +
              merge_high<kStep>(square[2 * i], square[2 * i + 1]);
  }
  if constexpr (kStep * 2 < kLanes) {
    return sum_each<kStep * 2>(half);
  } else {
    return half[0];
  }
}

}  // namespace sidewinder::SIDEWINDER_ISA
