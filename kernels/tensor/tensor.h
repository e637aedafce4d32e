#pragma once
// Tensor: shared storage + dtype + shape. Row-major; all dimensions but the first are dense, the
// first may have a wider stride, so that columns of a matrix are a view: xz [T, 2E] → x, z [T, E].
// Copying a Tensor copies the handle. An undefined Tensor (default constructed) stands for "none".

#include <fmt/core.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/tensor/device.h"
#include "kernels/tensor/dtype.h"

namespace sidewinder {

class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return sizes_[i]; }
  int64_t count() const;
  bool operator==(const Shape& other) const;
  std::string text() const;  // "[4096, 512]"

 private:
  int rank_ = 0;
  int64_t sizes_[kMaxRank] = {};
};

class Tensor {
 public:
  Tensor() = default;

  static Tensor empty(Shape shape, Dtype dtype, Device device = {});
  static Tensor zeros(Shape shape, Dtype dtype, Device device = {});
  template <typename T>
  static Tensor from(Shape shape, const std::vector<T>& values) {
    Tensor result = empty(shape, dtype_of<T>());
    SIDEWINDER_ASSERT(static_cast<int64_t>(values.size()) == shape.count());
    for (size_t i = 0; i < values.size(); ++i) result.data<T>()[i] = values[i];
    return result;
  }

  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return shape_; }
  Dtype dtype() const { return dtype_; }
  Device device() const;

  int rank() const { return shape_.rank(); }
  int64_t size(int dimension) const { return shape_[dimension]; }
  int64_t count() const { return shape_.count(); }
  size_t bytes() const { return static_cast<size_t>(count()) * size_of(dtype_); }

  // The matrix this tensor is read as: rows() × width(), where width is everything but the first
  // dimension. Elements of a row are dense; rows are row_stride() elements apart.
  int64_t rows() const { return rank() == 0 ? 1 : size(0); }
  int64_t width() const { return rows() == 0 ? 0 : count() / rows(); }
  int64_t row_stride() const { return row_stride_; }
  bool contiguous() const { return rows() <= 1 || row_stride_ == width(); }

  void* raw() const;
  template <typename T>
  T* data() const {
    SIDEWINDER_ASSERT(dtype_ == dtype_of<T>());
    return static_cast<T*>(raw());
  }

  // Views. columns() needs rank 2; reshape() keeps the first dimension or needs a contiguous
  // tensor.
  Tensor columns(int64_t begin, int64_t end) const;
  Tensor slice_rows(int64_t begin, int64_t end) const;
  Tensor reshape(Shape shape) const;

  // A new contiguous tensor with the same (converted) elements.
  Tensor clone() const;
  Tensor to(Dtype dtype) const;
  void fill_zero();
  // Element-wise conversion into this tensor; the counts and rows must agree.
  void copy_from(const Tensor& source);
  // Whether this handle is the only one on its storage.
  bool sole_owner() const { return storage_.use_count() == 1; }
  // Gives the memory back that all handles on this storage share. None may be read until it takes
  // over the memory of `made`, a tensor just like this one that no one else holds.
  void drop_memory() const;
  void take_memory(Tensor&& made) const;

  // Any floating element as f64 (slow: for tests, tables and messages).
  double at(int64_t flat_index) const;
  std::vector<double> values() const;

 private:
  struct Storage;
  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // in elements
  Shape shape_;
  int64_t row_stride_ = 0;
  Dtype dtype_ = Dtype::f32;
};

}  // namespace sidewinder
