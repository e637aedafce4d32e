#include "kernels/reference/matmul.h"

#include <algorithm>
#include <vector>

#include "kernels/base/thread_pool.h"

namespace sidewinder::reference {

void linear(Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
            const Tensor& residual) {
  const int64_t in = x.width();
  const int64_t out = y.width();
  const Tensor columns = transpose(w);  // [K, M]: the innermost loop runs along a row
  const double* weight = columns.data<double>();
  parallel_for(y.rows(), [&](int64_t t) {
    std::vector<double> sum(static_cast<size_t>(out), 0.0);
    const double* x_row = x.data<double>() + t * x.row_stride();
    for (int64_t k = 0; k < in; ++k) {
      const double factor = x_row[k];
      const double* w_row = weight + k * out;
      for (int64_t i = 0; i < out; ++i) sum[static_cast<size_t>(i)] += factor * w_row[i];
    }
    double* y_row = y.data<double>() + t * y.row_stride();
    for (int64_t i = 0; i < out; ++i) {
      double value = sum[static_cast<size_t>(i)];
      if (bias.defined()) value += bias.data<double>()[i];
      if (residual.defined()) value += residual.data<double>()[t * residual.row_stride() + i];
      y_row[i] = value;
    }
  });
}

void weight_gradient(Tensor& dweight, const Tensor& dy, const Tensor& x, bool accumulate) {
  const int64_t width = x.width();
  parallel_for(dweight.rows(), [&](int64_t m) {
    std::vector<double> sum(static_cast<size_t>(width), 0.0);
    for (int64_t t = 0; t < x.rows(); ++t) {
      const double factor = dy.data<double>()[t * dy.row_stride() + m];
      const double* x_row = x.data<double>() + t * x.row_stride();
      for (int64_t k = 0; k < width; ++k) sum[static_cast<size_t>(k)] += factor * x_row[k];
    }
    double* row = dweight.data<double>() + m * dweight.row_stride();
    for (int64_t k = 0; k < width; ++k) {
      const double value = sum[static_cast<size_t>(k)];
      row[k] = accumulate ? row[k] + value : value;
    }
  });
}

Tensor transpose(const Tensor& matrix) {
  Tensor result = Tensor::empty({matrix.width(), matrix.rows()}, Dtype::f64);
  double* target = result.data<double>();
  parallel_for(matrix.width(), [&](int64_t column) {
    const double* source = matrix.data<double>() + column;
    for (int64_t row = 0; row < matrix.rows(); ++row) {
      target[column * matrix.rows() + row] = source[row * matrix.row_stride()];
    }
  });
  return result;
}

}  // namespace sidewinder::reference
