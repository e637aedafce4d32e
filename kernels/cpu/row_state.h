#pragma once
// For kernels that walk along rows with a state: where the state is reset, and pointers into
// tensors.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/tensor/sequence_layout.h"

namespace sidewinder::cpu {

// Offsets in each row before which the state is zero: document starts, but not where a row goes on
// from a carried state.
class Resets {
 public:
  explicit Resets(const SequenceLayout& layout) {
    begin_.push_back(0);
    size_t next = 0;
    const std::vector<int32_t>& starts = layout.document_starts;
    for (int64_t row = 0; row < layout.rows; ++row) {
      const int64_t origin = row * layout.row_length;
      for (; next < starts.size() && starts[next] < origin + layout.row_length; ++next) {
        const int64_t offset = starts[next] - origin;
        if (offset == 0 && layout.is_carried(row)) continue;
        offsets_.push_back(static_cast<int32_t>(offset));
      }
      begin_.push_back(offsets_.size());
    }
  }

  const int32_t* of(int64_t row) const {
    return offsets_.data() + begin_[static_cast<size_t>(row)];
  }
  int64_t count(int64_t row) const {
    const size_t r = static_cast<size_t>(row);
    return static_cast<int64_t>(begin_[r + 1] - begin_[r]);
  }

 private:
  std::vector<int32_t> offsets_;
  std::vector<size_t> begin_;
};

inline void* pointer_at(const Tensor& tensor, int64_t row, int64_t column) {
  if (!tensor.defined()) return nullptr;
  return static_cast<char*>(tensor.raw()) +
         (row * tensor.row_stride() + column) * static_cast<int64_t>(size_of(tensor.dtype()));
}
inline float* floats_at(const Tensor& tensor, int64_t row, int64_t column) {
  return static_cast<float*>(pointer_at(tensor, row, column));
}
inline int64_t stride_of(const Tensor& tensor) {
  return tensor.defined() ? tensor.row_stride() : 0;
}

}  // namespace sidewinder::cpu
