#pragma once
// Asking for memory ahead of its use, for loops that go down narrow columns of wide rows.

#include "kernels/cpu/isa/pack.h"

namespace sidewinder::SIDEWINDER_ISA {

// Asks for the rows of the next tile, one line of each tensor at a step, while this tile is worked
// on, to be read or to be overwritten. Rows are kilobytes apart, so that the hardware does not
// foresee them, and a burst of requests would stall the core.
class RowPrefetch {
 public:
  // Strips of a row of `row_bytes` are walked, `strip_bytes` at a step. Nothing until tensors are
  // added.
  RowPrefetch(const void* anywhere, int64_t row_bytes, int64_t strip_bytes)
      : row_bytes_(row_bytes), strip_bytes_(strip_bytes) {
    for (const char*& row : row_) row = static_cast<const char*>(anywhere);
  }

  void add(const void* first_row, int64_t stride_bytes) {
    row_[count_] = static_cast<const char*>(first_row);
    stride_[count_] = stride_bytes;
    ++count_;
  }

  // Into the second cache; or the first, where the rows are few and used soon.
  static constexpr int kFirst = 3, kSecond = 2;
  template <int kCache = kSecond>
  void step() {
    for (const char* row : row_) __builtin_prefetch(row + offset_, 0, kCache);
    offset_ += strip_bytes_;
    if (offset_ < row_bytes_) return;
    offset_ = 0;
    for (int i = 0; i < kMost; ++i) row_[i] += stride_[i];
  }
  // A step for every token of a pack.
  template <int kCount>
  void step(const Pack<kCount>&) {
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) step();
  }

 private:
  static constexpr int kMost = 4;

  int64_t row_bytes_, strip_bytes_;
  int64_t offset_ = 0;
  int count_ = 0;
  const char* row_[kMost];
  int64_t stride_[kMost] = {};
};

}  // namespace sidewinder::SIDEWINDER_ISA
