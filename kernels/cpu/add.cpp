#include "kernels/ops/add.h"

#include <algorithm>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa/add.h"
#include "kernels/reference/add.h"

namespace sidewinder {

SIDEWINDER_DECLARE_PER_ISA(AddKernels, add_kernels)

namespace cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements per work item

char* row_of(const Tensor& tensor, int64_t row) {
  return static_cast<char*>(tensor.raw()) +
         static_cast<size_t>(row * tensor.row_stride()) * size_of(tensor.dtype());
}

void add_f64(const AddArgs& args) {
  const auto as_f64 = [](const Tensor& tensor) {
    return tensor.dtype() == Dtype::f64 ? tensor : tensor.to(Dtype::f64);
  };
  if (args.y.dtype() == Dtype::f64) {
    reference::add(args.y, as_f64(args.a), as_f64(args.b));
    return;
  }
  Tensor sum = Tensor::empty(args.y.shape(), Dtype::f64);
  reference::add(sum, as_f64(args.a), as_f64(args.b));
  args.y.copy_from(sum);
}

}  // namespace

void add(Stream, const AddArgs& args) {
  const auto is_f64 = [](const Tensor& tensor) { return tensor.dtype() == Dtype::f64; };
  if (is_f64(args.y) || is_f64(args.a) || is_f64(args.b)) return add_f64(args);
  const auto is_bf16 = [](const Tensor& tensor) { return tensor.dtype() == Dtype::bf16 ? 1 : 0; };
  const AddRow add_row =
      add_kernels_for_isa().row[is_bf16(args.y)][is_bf16(args.a)][is_bf16(args.b)];
  if (args.y.contiguous() && args.a.contiguous() && args.b.contiguous()) {
    const auto at = [](const Tensor& tensor, int64_t i) {
      return static_cast<char*>(tensor.raw()) + static_cast<size_t>(i) * size_of(tensor.dtype());
    };
    parallel_ranges(args.y.count(), kGrain, [&](int64_t begin, int64_t end) {
      add_row(at(args.y, begin), at(args.a, begin), at(args.b, begin), end - begin);
    });
    return;
  }
  const int64_t width = args.y.width();
  parallel_ranges(args.y.rows(), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t row = begin; row < end; ++row) {
                      add_row(row_of(args.y, row), row_of(args.a, row), row_of(args.b, row), width);
                    }
                  });
}

}  // namespace cpu
}  // namespace sidewinder
