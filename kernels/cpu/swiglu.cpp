#include "kernels/ops/swiglu.h"

#include <algorithm>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/beyond_caches.h"
#include "kernels/cpu/isa/swiglu.h"
#include "kernels/reference/swiglu.h"

namespace sidewinder::cpu {
namespace {

// Rows of one work item, about 64 Ki elements.
int64_t rows_per_item(int64_t width) {
  return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, width));
}

char* row_pointer(const Tensor& tensor, int64_t row) {
  return static_cast<char*>(tensor.raw()) +
         row * tensor.row_stride() * static_cast<int64_t>(size_of(tensor.dtype()));
}

}  // namespace

void swiglu(Stream, const SwigluArgs& args) {
  if (args.gate_up.dtype() == Dtype::f64) return reference::swiglu(args);
  const int64_t width = args.gate_up.width() / 2;
  parallel_ranges(args.gate_up.rows(), rows_per_item(width), [&](int64_t begin, int64_t end) {
    swiglu_loops_for_isa().forward({
        .y = row_pointer(args.y, begin),
        .gate_up = row_pointer(args.gate_up, begin),
        .rows = end - begin,
        .width = width,
        .y_stride = args.y.row_stride(),
        .gate_up_stride = args.gate_up.row_stride(),
        .bf16 = args.gate_up.dtype() == Dtype::bf16,
        .streams = is_beyond_caches(args.y),
    });
  });
}

void swiglu_backward(Stream, const SwigluBackwardArgs& args) {
  if (args.gate_up.dtype() == Dtype::f64) return reference::swiglu_backward(args);
  const int64_t width = args.gate_up.width() / 2;
  parallel_ranges(args.gate_up.rows(), rows_per_item(width), [&](int64_t begin, int64_t end) {
    swiglu_loops_for_isa().backward({
        .dgate_up = row_pointer(args.dgate_up, begin),
        .y = args.y.defined() ? row_pointer(args.y, begin) : nullptr,
        .dy = row_pointer(args.dy, begin),
        .gate_up = row_pointer(args.gate_up, begin),
        .rows = end - begin,
        .width = width,
        .dgate_up_stride = args.dgate_up.row_stride(),
        .y_stride = args.y.defined() ? args.y.row_stride() : 0,
        .dy_stride = args.dy.row_stride(),
        .gate_up_stride = args.gate_up.row_stride(),
        .bf16 = args.gate_up.dtype() == Dtype::bf16,
        .streams = !args.y.defined() && args.dgate_up.raw() != args.gate_up.raw() &&
                   is_beyond_caches(args.dgate_up),
    });
  });
}

}  // namespace sidewinder::cpu
