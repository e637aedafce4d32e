#pragma once
// One vector of f32 per instruction-set level, and the few operations on it that kernels share.
// Included only by sources of kernels/cpu/isa, which are compiled once per level.

#include <cstddef>
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef SIDEWINDER_ISA
#error "this header belongs to kernels/cpu/isa, whose sources are compiled with SIDEWINDER_ISA set"
#endif

namespace sidewinder::SIDEWINDER_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

using F32 = float __attribute__((vector_size(kLanes * 4)));
using I32 = int32_t __attribute__((vector_size(kLanes * 4)));
using F32Unaligned = float __attribute__((vector_size(kLanes * 4), aligned(4)));
using U16 = uint16_t __attribute__((vector_size(kLanes * 2)));
using U16Unaligned = uint16_t __attribute__((vector_size(kLanes * 2), aligned(2)));
using U32 = uint32_t __attribute__((vector_size(kLanes * 4)));

inline F32 broadcast(float value) { return value - F32{}; }  // value + 0 would turn −0 into 0
inline F32 load(const float* p) { return *reinterpret_cast<const F32Unaligned*>(p); }
inline void store(float* p, F32 value) { *reinterpret_cast<F32Unaligned*>(p) = value; }

// A store that leaves no trace in the caches where a vector is a whole line, for what is read much
// later: the line is not read from memory first. Other threads see it after stream_fence().
inline void stream(float* p, F32 value) {
#if defined(__AVX512F__)
  if (reinterpret_cast<uintptr_t>(p) % sizeof value == 0) {
    _mm512_stream_ps(p, reinterpret_cast<__m512>(value));
    return;
  }
#endif
  store(p, value);
}
inline void stream_fence() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

// 2 · kLanes bf16 elements as they lie, two to a lane. Rows of bf16 begin at any even address.
inline F32 load_pairs(const uint16_t* p) {
  F32 value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

// bf16 elements (as uint16_t) to and from f32; stores round to nearest even.
inline F32 load(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<F32>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#elif defined(__AVX2__)
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<F32>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
  const U16 half = *reinterpret_cast<const U16Unaligned*>(p);
  return reinterpret_cast<F32>(__builtin_convertvector(half, U32) << 16);
#endif
}

#if defined(__AVX512BF16__)
// Elements i of the lower and of the upper half, side by side.
inline __m512i interleave_halves(__m512i halves) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}
// kLanes elements of two rows of bf16, side by side.
inline __m512i interleave_rows(const uint16_t* even, const uint16_t* odd) {
  const auto row = [](const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  };
  return interleave_halves(_mm512_inserti64x4(_mm512_castsi256_si512(row(even)), row(odd), 1));
}
#else
// The bits of bf16 in the lower halves.
inline U32 rounded_bf16(F32 value) {
  const U32 word = reinterpret_cast<U32>(value);
  const U32 rounded = (word + 0x7fffU + ((word >> 16) & 1U)) >> 16;
  const U32 quiet = (word >> 16) | 0x40U;
  const I32 nan = value != value;
  return (rounded & ~reinterpret_cast<U32>(nan)) | (quiet & reinterpret_cast<U32>(nan));
}
#endif

inline void store(uint16_t* p, F32 value) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(p),
      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(value))));
#else
  *reinterpret_cast<U16Unaligned*>(p) = __builtin_convertvector(rounded_bf16(value), U16);
#endif
}

// The first `count` (< kLanes) elements; the others read as zero and are not written.
template <typename T>
inline F32 load_partial(const T* p, int count) {
  T buffer[kLanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = p[i];
  return load(buffer);
}
template <typename T>
inline void store_partial(T* p, F32 value, int count) {
  T buffer[kLanes];
  store(buffer, value);
  for (int i = 0; i < count; ++i) p[i] = buffer[i];
}
// The same of whole vectors too.
template <typename T>
[[gnu::always_inline]] inline F32 load_count(const T* p, int count) {
  return count == kLanes ? load(p) : load_partial(p, count);
}
template <typename T>
[[gnu::always_inline]] inline void store_count(T* p, F32 value, int count) {
  if (count == kLanes) {
    store(p, value);
  } else {
    store_partial(p, value, count);
  }
}

inline F32 select(I32 mask, F32 yes, F32 no) { return mask ? yes : no; }
inline F32 max(F32 a, F32 b) { return a > b ? a : b; }
inline F32 min(F32 a, F32 b) { return a < b ? a : b; }

inline float sum_lanes(F32 value) {
  // Pairwise, so that the order is the same however the compiler lowers it.
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(value));  // the same pairs
#else
  float lanes[kLanes];
  store(lanes, value);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
#endif
}
inline float max_lanes(F32 value) {
  float lanes[kLanes];
  store(lanes, value);
  float result = lanes[0];
  for (int i = 1; i < kLanes; ++i) result = lanes[i] > result ? lanes[i] : result;
  return result;
}

// 2^x: rounding to the nearest integer, degree 6 polynomial on [-1/2, 1/2], relative error ~1e-7.
// Results below the smallest normal number are zero, above the largest infinity; NaN stays NaN.
inline F32 exp2(F32 x) {
#if defined(__AVX512F__)
  const __m512 value = reinterpret_cast<__m512>(x);
  const __m512 whole = _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F32 f = reinterpret_cast<F32>(_mm512_sub_ps(value, whole));
#else
  const F32 clamped = min(max(x, broadcast(-150.0F)), broadcast(130.0F));
  const F32 magic = broadcast(12582912.0F);  // 1.5 · 2^23: adding it rounds to an integer
  const F32 shifted = clamped + magic;
  const F32 whole = shifted - magic;
  const F32 f = clamped - whole;
#endif
  F32 p = broadcast(1.5403530e-4F);
  p = p * f + 1.3333558e-3F;
  p = p * f + 9.6181291e-3F;
  p = p * f + 5.5504109e-2F;
  p = p * f + 2.4022651e-1F;
  p = p * f + 6.9314718e-1F;
  p = p * f + 1.0F;
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), whole));
#else
  const I32 exponent = __builtin_convertvector(whole, I32);
  // Two steps keep the intermediate exponents in range.
  const I32 half = exponent >> 1;
  const F32 scale1 = reinterpret_cast<F32>((half + 127) << 23);
  const F32 scale2 = reinterpret_cast<F32>((exponent - half + 127) << 23);
  const F32 result = p * scale1 * scale2;
  return x == x ? result : x;
#endif
}

inline constexpr float kLog2E = 1.44269504088896340736F;
inline constexpr float kLn2 = 0.69314718055994530942F;

inline F32 exp(F32 x) {
  // x·log2(e) in two parts: the product's own rounding error would be x·6e-8 in the exponent.
  const F32 high = x * kLog2E;
#if defined(__AVX512F__)
  const F32 low = reinterpret_cast<F32>(_mm512_fmsub_ps(
      reinterpret_cast<__m512>(x), _mm512_set1_ps(kLog2E), reinterpret_cast<__m512>(high)));
  const F32 result = exp2(high);
  // 2^(high+low) = 2^high · (1 + low·ln 2); low is NaN where high overflows.
  const F32 corrected = result + result * (low * kLn2);
  return corrected == corrected ? corrected : result;
#else
  return exp2(high);
#endif
}

inline F32 sigmoid(F32 x) { return 1.0F / (1.0F + exp(-x)); }

}  // namespace sidewinder::SIDEWINDER_ISA
