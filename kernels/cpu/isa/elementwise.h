#pragma once
// Loops over the elements of a row in vectors. A body gets the index of its first element and the
// number of elements it covers: kLanes, or fewer in the last vector.

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {

inline F32 square_root(F32 x) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<F32>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#else
  F32 result;
  for (int i = 0; i < kLanes; ++i) result[i] = __builtin_sqrtf(x[i]);
  return result;
#endif
}

// Asks for the cache line `stride` elements after p: the same place of the next row. With tens of
// instructions per element the loads alone do not reach far enough ahead to hide the memory.
template <typename T>
inline void prefetch(const T* p, int64_t stride) {
  // As a number, because the row after the last need not exist.
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) +
                                                   static_cast<uintptr_t>(stride) * sizeof(T)));
}

template <typename Body>
inline void for_each_vector(int64_t width, Body&& body) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) body(i, kLanes);
  if (i < width) body(i, static_cast<int>(width - i));
}

// 2 · kLanes elements at once, so that bf16 fills a line too: see stream() in simd.h.
inline void stream_pair(float* p, F32 low, F32 high) {
  stream(p, low);
  stream(p + kLanes, high);
}
inline void stream_pair(uint16_t* p, F32 low, F32 high) {
#if defined(__AVX512BF16__)
  if (reinterpret_cast<uintptr_t>(p) % 64 == 0) {
    const __m512bh both =
        _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low));
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(both));
    return;
  }
#endif
  store(p, low);
  store(p + kLanes, high);
}

// For results that are read much later, or do not fit the caches: stores of pairs of vectors, which
// leave the caches alone if `kStreams`.
template <bool kStreams, typename T>
inline void store_pair(T* p, F32 low, F32 high) {
  if constexpr (kStreams) {
    stream_pair(p, low, high);
  } else {
    store(p, low);
    store(p + kLanes, high);
  }
}

template <typename T>
inline void store_pair(bool streams, T* p, F32 low, F32 high) {
  streams ? store_pair<true>(p, low, high) : store_pair<false>(p, low, high);
}

// Calls pair(i) for every two whole vectors, then rest(i, count) as above.
template <typename Pair, typename Rest>
inline void for_each_pair(int64_t width, Pair&& pair, Rest&& rest) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) pair(i);
  for (; i + kLanes <= width; i += kLanes) rest(i, kLanes);
  if (i < width) rest(i, static_cast<int>(width - i));
}

// The sum of term(i, count) over a row, four vectors at a time: an order that depends on `width`
// alone. Lanes past `count` must be zero, as load_partial makes them.
template <typename Term>
inline float sum_over(int64_t width, Term&& term) {
  F32 sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) sums[k] += term(i + k * kLanes, kLanes);
  }
  for (; i + kLanes <= width; i += kLanes) sums[0] += term(i, kLanes);
  if (i < width) sums[1] += term(i, static_cast<int>(width - i));
  return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace sidewinder::SIDEWINDER_ISA
