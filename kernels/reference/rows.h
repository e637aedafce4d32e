#pragma once
// A matrix view for the plain loops of this folder: element type, rows, stride. Undefined stands
// for an absent input or an unwanted output.

#include <type_traits>

#include "kernels/tensor/tensor.h"

namespace sidewinder::reference {

template <typename S>
struct Rows {
  S* data = nullptr;
  int64_t stride = 0;

  bool defined() const { return data != nullptr; }
  S& operator()(int64_t row, int64_t column) const { return data[row * stride + column]; }
};

template <typename S>
Rows<S> rows_of(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.data<std::remove_const_t<S>>(), tensor.row_stride()};
}

}  // namespace sidewinder::reference
