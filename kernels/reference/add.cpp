#include "kernels/reference/add.h"

namespace sidewinder::reference {

void add(Tensor& y, const Tensor& a, const Tensor& b) {
  for (int64_t row = 0; row < y.rows(); ++row) {
    for (int64_t i = 0; i < y.width(); ++i) {
      y.data<double>()[row * y.row_stride() + i] =
          a.data<double>()[row * a.row_stride() + i] + b.data<double>()[row * b.row_stride() + i];
    }
  }
}

}  // namespace sidewinder::reference
