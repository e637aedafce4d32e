#include "kernels/ops/rms_norm.h"

#include <algorithm>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/beyond_caches.h"
#include "kernels/cpu/isa/rms_norm.h"
#include "kernels/reference/rms_norm.h"

namespace sidewinder::cpu {
namespace {

// Rows of one work item, by the shape alone: about 64 Ki elements, and at least 16 rows, so that
// the partial sum of the weight gradient that each item writes is small beside what it reads.
int64_t rows_per_item(int64_t row_width) {
  return std::clamp<int64_t>(65536 / std::max<int64_t>(row_width, 1), 16, 1024);
}

const void* row_pointer(const Tensor& tensor, int64_t row) {
  return static_cast<const char*>(tensor.raw()) +
         row * tensor.row_stride() * static_cast<int64_t>(size_of(tensor.dtype()));
}
void* mutable_row_pointer(const Tensor& tensor, int64_t row) {
  return const_cast<void*>(row_pointer(tensor, row));
}

bool is_bf16(const Tensor& tensor) { return tensor.dtype() == Dtype::bf16; }

}  // namespace

void rms_norm(Stream, const RmsNormArgs& args) {
  if (args.x.dtype() == Dtype::f64) return reference::rms_norm(args);
  const int64_t width = args.weight.count();
  const int64_t groups = args.x.width() / width;
  parallel_ranges(args.x.rows(), rows_per_item(args.x.width()), [&](int64_t begin, int64_t end) {
    rms_norm_loops_for_isa().forward({
        .y = mutable_row_pointer(args.y, begin),
        .rstd = args.rstd.data<float>() + begin * groups,
        .x = row_pointer(args.x, begin),
        .weight = args.weight.data<float>(),
        .rows = end - begin,
        .groups = groups,
        .width = width,
        .y_stride = args.y.row_stride(),
        .x_stride = args.x.row_stride(),
        .y_bf16 = is_bf16(args.y),
        .x_bf16 = is_bf16(args.x),
        .streams = is_beyond_caches(args.y),
        .eps = static_cast<float>(args.eps),
    });
  });
}

void rms_norm_backward(Stream, const RmsNormBackwardArgs& args) {
  if (args.x.dtype() == Dtype::f64) return reference::rms_norm_backward(args);
  const int64_t width = args.weight.count();
  const int64_t groups = args.x.width() / width;
  const int64_t item_rows = rows_per_item(args.x.width());
  const int64_t items = (args.x.rows() + item_rows - 1) / item_rows;
  // One partial sum of the weight gradient per item, added in the order of the items.
  const Tensor partial = Tensor::zeros({items, width}, Dtype::f32);
  parallel_ranges(args.x.rows(), item_rows, [&](int64_t begin, int64_t end) {
    rms_norm_loops_for_isa().backward({
        .dx = mutable_row_pointer(args.dx, begin),
        .dweight = partial.data<float>() + begin / item_rows * width,
        .y = args.y.defined() ? mutable_row_pointer(args.y, begin) : nullptr,
        .dy = row_pointer(args.dy, begin),
        .x = row_pointer(args.x, begin),
        .weight = args.weight.data<float>(),
        .rstd = args.rstd.data<float>() + begin * groups,
        .rows = end - begin,
        .groups = groups,
        .width = width,
        .dx_stride = args.dx.row_stride(),
        .y_stride = args.y.defined() ? args.y.row_stride() : 0,
        .dy_stride = args.dy.row_stride(),
        .x_stride = args.x.row_stride(),
        .dx_bf16 = is_bf16(args.dx),
        .dy_bf16 = is_bf16(args.dy),
        .x_bf16 = is_bf16(args.x),
        .accumulate = args.accumulate,
    });
  });
  float* dweight = args.dweight.data<float>();
  parallel_ranges(width, 256, [&](int64_t begin, int64_t end) {
    for (int64_t item = 0; item < items; ++item) {
      const float* sums = partial.data<float>() + item * width;
      for (int64_t i = begin; i < end; ++i) dweight[i] += sums[i];
    }
  });
}

}  // namespace sidewinder::cpu
