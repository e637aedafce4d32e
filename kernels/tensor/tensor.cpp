#include "kernels/tensor/tensor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/base/thread_pool.h"
#include "kernels/tensor/allocator.h"

namespace sidewinder {

struct Tensor::Storage {
  Storage(size_t bytes, Device where)
      : device(where), allocator(allocator_of(where)), pointer(allocator.allocate(bytes)) {}
  ~Storage() { release(); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void release() {
    if (pointer != nullptr) allocator.free(pointer);
    pointer = nullptr;
  }

  Device device;
  Allocator& allocator;  // the arena it came from, which a dry run changes
  void* pointer;          // null while it is dropped
};

Shape::Shape(std::initializer_list<int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  SIDEWINDER_ASSERT(rank_ <= kMaxRank);
  std::copy(sizes.begin(), sizes.end(), sizes_);
  for (int i = 0; i < rank_; ++i) SIDEWINDER_ASSERT(sizes_[i] >= 0);
}

int64_t Shape::count() const {
  int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= sizes_[i];
  return product;
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ && std::equal(sizes_, sizes_ + rank_, other.sizes_);
}

std::string Shape::text() const {
  std::string result = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) result += ", ";
    result += std::to_string(sizes_[i]);
  }
  return result + "]";
}

Tensor Tensor::empty(Shape shape, Dtype dtype, Device device) {
  Tensor result;
  result.shape_ = shape;
  result.dtype_ = dtype;
  result.row_stride_ = result.width();
  result.storage_ = std::make_shared<Storage>(result.bytes(), device);
  return result;
}

Tensor Tensor::zeros(Shape shape, Dtype dtype, Device device) {
  Tensor result = empty(shape, dtype, device);
  result.fill_zero();
  return result;
}

Device Tensor::device() const {
  SIDEWINDER_ASSERT(defined());
  return storage_->device;
}

void Tensor::drop_memory() const {
  SIDEWINDER_ASSERT(defined());
  storage_->release();
}

void Tensor::take_memory(Tensor&& made) const {
  SIDEWINDER_ASSERT(defined() && storage_->pointer == nullptr && made.sole_owner());
  SIDEWINDER_ASSERT(made.shape_ == shape_ && made.dtype_ == dtype_ && made.offset_ == offset_ &&
                    made.row_stride_ == row_stride_);
  SIDEWINDER_ASSERT(&made.storage_->allocator == &storage_->allocator);
  std::swap(storage_->pointer, made.storage_->pointer);
}

void* Tensor::raw() const {
  SIDEWINDER_ASSERT(defined() && storage_->pointer != nullptr);
  return static_cast<char*>(storage_->pointer) + static_cast<size_t>(offset_) * size_of(dtype_);
}

Tensor Tensor::columns(int64_t begin, int64_t end) const {
  SIDEWINDER_ASSERT(rank() == 2 && 0 <= begin && begin <= end && end <= size(1));
  Tensor view = *this;
  view.shape_ = {size(0), end - begin};
  view.offset_ += begin;
  return view;
}

Tensor Tensor::slice_rows(int64_t begin, int64_t end) const {
  SIDEWINDER_ASSERT(rank() >= 1 && 0 <= begin && begin <= end && end <= size(0));
  Tensor view = *this;
  switch (rank()) {
    case 1: view.shape_ = {end - begin}; break;
    case 2: view.shape_ = {end - begin, size(1)}; break;
    case 3: view.shape_ = {end - begin, size(1), size(2)}; break;
    default: view.shape_ = {end - begin, size(1), size(2), size(3)}; break;
  }
  view.offset_ += begin * row_stride_;
  return view;
}

Tensor Tensor::reshape(Shape shape) const {
  SIDEWINDER_ASSERT(shape.count() == count());
  const bool keeps_rows = rank() >= 1 && shape.rank() >= 1 && shape[0] == size(0);
  SIDEWINDER_ASSERT(keeps_rows || contiguous());
  Tensor view = *this;
  view.shape_ = shape;
  if (!keeps_rows) view.row_stride_ = view.width();
  return view;
}

Tensor Tensor::clone() const { return to(dtype_); }

Tensor Tensor::to(Dtype dtype) const {
  Tensor result = empty(shape_, dtype, device());
  result.copy_from(*this);
  return result;
}

namespace {

constexpr int64_t kGrain = 1 << 16;  // elements per work item

int64_t rows_per_item(int64_t width) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)); }

template <typename To, typename From>
void convert_elements(To* target, const From* source, int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(target, source, static_cast<size_t>(count) * sizeof(To));
  } else if constexpr (std::is_same_v<To, Bf16>) {
    for (int64_t i = 0; i < count; ++i) target[i] = Bf16(static_cast<float>(source[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) target[i] = static_cast<To>(source[i]);
  }
}

template <typename To, typename From>
void convert_rows(const Tensor& to, const Tensor& from) {
  To* target = to.data<To>();
  const From* source = from.data<From>();
  if (to.contiguous() && from.contiguous()) {  // rows may be as short as one element
    parallel_ranges(from.count(), kGrain, [&](int64_t begin, int64_t end) {
      convert_elements(target + begin, source + begin, end - begin);
    });
    return;
  }
  const int64_t width = from.width();
  parallel_ranges(from.rows(), rows_per_item(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      convert_elements(target + row * to.row_stride(), source + row * from.row_stride(), width);
    }
  });
}

template <typename To>
void convert_to(const Tensor& to, const Tensor& from) {
  switch (from.dtype()) {
    case Dtype::f32: return convert_rows<To, float>(to, from);
    case Dtype::bf16: return convert_rows<To, Bf16>(to, from);
    case Dtype::f64: return convert_rows<To, double>(to, from);
    case Dtype::i32: break;
  }
  SIDEWINDER_ASSERT(false);
}

}  // namespace

void Tensor::fill_zero() {
  const int64_t row_bytes = width() * static_cast<int64_t>(size_of(dtype_));
  if (contiguous()) {
    const int64_t total = static_cast<int64_t>(bytes());
    parallel_ranges(total, kGrain * 4, [&](int64_t begin, int64_t end) {
      std::memset(static_cast<char*>(raw()) + begin, 0, static_cast<size_t>(end - begin));
    });
    return;
  }
  for (int64_t row = 0; row < rows(); ++row) {
    std::memset(static_cast<char*>(raw()) + row * row_stride_ * static_cast<int64_t>(size_of(dtype_)),
                0, static_cast<size_t>(row_bytes));
  }
}

void Tensor::copy_from(const Tensor& source) {
  SIDEWINDER_ASSERT(source.count() == count());
  if (count() == 0) return;
  if (source.rows() != rows()) {
    // Same elements under another shape: read both as one row.
    reshape({1, count()}).copy_from(source.reshape({1, count()}));
    return;
  }
  switch (dtype_) {
    case Dtype::f32: return convert_to<float>(*this, source);
    case Dtype::bf16: return convert_to<Bf16>(*this, source);
    case Dtype::f64: return convert_to<double>(*this, source);
    case Dtype::i32:
      SIDEWINDER_ASSERT(source.dtype() == Dtype::i32);
      return convert_rows<int32_t, int32_t>(*this, source);
  }
}

double Tensor::at(int64_t flat_index) const {
  SIDEWINDER_ASSERT(0 <= flat_index && flat_index < count());
  const int64_t row = flat_index / std::max<int64_t>(1, width());
  const int64_t i = row * row_stride_ + flat_index % std::max<int64_t>(1, width());
  switch (dtype_) {
    case Dtype::f32: return static_cast<double>(data<float>()[i]);
    case Dtype::bf16: return static_cast<double>(data<Bf16>()[i]);
    case Dtype::f64: return data<double>()[i];
    case Dtype::i32: break;
  }
  return data<int32_t>()[i];
}

std::vector<double> Tensor::values() const {
  std::vector<double> result(static_cast<size_t>(count()));
  for (int64_t i = 0; i < count(); ++i) result[static_cast<size_t>(i)] = at(i);
  return result;
}

}  // namespace sidewinder
