#pragma once
// Matrix products in f32 and bf16 for the operations of this folder: the partition into work items
// around the inner loops of isa/gemm.h. Checks and f64 are the callers' business.

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa/gemm.h"
#include "kernels/ops/matmul.h"

namespace sidewinder::cpu {

// A matrix somewhere in memory. data is null for "none".
struct Matrix {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;  // in elements
  GemmElement element = GemmElement::f32;

  void* at(int64_t row, int64_t column) const {
    const int64_t size = element == GemmElement::f32 ? 4 : 2;
    return static_cast<char*>(data) + (row * row_stride + column) * size;
  }
  Matrix slice_rows(int64_t begin, int64_t end) const {
    return {at(begin, 0), end - begin, columns, row_stride, element};
  }
  Matrix slice_columns(int64_t begin, int64_t end) const {
    return {at(0, begin), rows, end - begin, row_stride, element};
  }
};

Matrix matrix_of(const Tensor& tensor);

// How products cut the rows of x.
const GemmRows& product_rows(Dtype compute);

// y = x · W (+ bias) (+ residual) (+ y when accumulating), W as packed.
struct LinearProduct {
  Matrix y;
  Matrix x;
  const PackedWeight& weight;
  const float* bias = nullptr;
  Matrix residual = {};
  bool accumulate = false;
};

void pack_panels(PackedWeight& packed, const Matrix& weight, WeightUse use);
void multiply(const LinearProduct& product);
// Rows [first_in, first_in + in) and columns [first_out, first_out + out) of W.
struct WeightPart {
  int64_t first_in, in;    // begins at a multiple of two
  int64_t first_out, out;  // begins at a multiple of 32, the widest panel
};
// x · (a part of W), made by the calling thread alone: for use within a work item.
void multiply_in_item(const LinearProduct& product, const WeightPart& part);
// y += factor · (row of W)
void add_weight_row(float* y, const PackedWeight& weight, int64_t row, float factor);
// dweight (+)= dyᵀ · x
void multiply_transposed(const Matrix& dweight, const Matrix& dy, const Matrix& x, Dtype compute,
                         bool accumulate);

}  // namespace sidewinder::cpu
