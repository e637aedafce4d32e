#pragma once
// Strips: kLanes neighbouring channels, of which the last strip of a tensor may hold fewer.

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {

inline int strips_of(int channels) { return (channels + kLanes - 1) / kLanes; }
inline int strip_count(int channels, int strip) {
  const int left = channels - strip * kLanes;
  return left < kLanes ? left : kLanes;
}

// The lanes past `count` read as zero and are not written.
template <typename T>
inline F32 load_strip(const T* p, int count) {
  return count == kLanes ? load(p) : load_partial(p, count);
}
template <typename T>
inline void store_strip(T* p, F32 value, int count) {
  if (count == kLanes) {
    store(p, value);
  } else {
    store_partial(p, value, count);
  }
}

}  // namespace sidewinder::SIDEWINDER_ISA
