#pragma once
// For loops that go along the tokens of a row, one strip of channels at a time. A strip is kLanes
// neighbouring channels; the last one of a tensor may hold fewer.

#include <type_traits>

#include "kernels/cpu/isa/pack.h"

namespace sidewinder::SIDEWINDER_ISA {

inline int strips_of(int channels) { return (channels + kLanes - 1) / kLanes; }
inline int strip_count(int channels, int strip) {
  const int left = channels - strip * kLanes;
  return left < kLanes ? left : kLanes;
}

// Calls of(count), of a whole strip with a constant, so that its loops have no partial case in
// them.
template <typename Of>
[[gnu::always_inline]] inline void with_count(int count, Of&& of) {
  if (count == kLanes) {
    of(std::integral_constant<int, kLanes>{});
  } else {
    of(count);
  }
}

// The first of the ascending `resets` (document starts in a row) that is at or after `token`.
inline int64_t first_reset_from(const int32_t* resets, int64_t count, int64_t token) {
  int64_t low = 0;
  for (int64_t high = count; low < high;) {
    const int64_t middle = (low + high) / 2;
    if (resets[middle] < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Tokens whose chains of operations run side by side.
constexpr int kTogether = 4;

// Calls of(Pack size, t) for the tokens [0, tokens), kTogether at a time and the rest one by one.
template <typename Of>
[[gnu::always_inline]] inline void for_each_pack(int tokens, Of&& of) {
  int t = 0;
  for (; t + kTogether <= tokens; t += kTogether) of(Pack<kTogether>{}, t);
  for (; t < tokens; ++t) of(Pack<1>{}, t);
}

// Rows t, t + 1, … of a strip, or of a buffer with a vector per token.
template <typename T, int kCount>
[[gnu::always_inline]] inline Pack<kCount> load_rows(const Pack<kCount>&, const T* p,
                                                     int64_t stride, int t, int count) {
  Pack<kCount> rows;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) rows.at[i] = load_count(p + (t + i) * stride, count);
  return rows;
}
template <typename T, int kCount>
[[gnu::always_inline]] inline void store_rows(T* p, int64_t stride, int t, int count,
                                              const Pack<kCount>& rows) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) store_count(p + (t + i) * stride, rows.at[i], count);
}
template <int kCount>
[[gnu::always_inline]] inline Pack<kCount> load_rows(const Pack<kCount>&, const F32* buffer,
                                                     int t) {
  Pack<kCount> rows;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) rows.at[i] = buffer[t + i];
  return rows;
}
template <int kCount>
[[gnu::always_inline]] inline void store_rows(F32* buffer, int t, const Pack<kCount>& rows) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) buffer[t + i] = rows.at[i];
}

}  // namespace sidewinder::SIDEWINDER_ISA
