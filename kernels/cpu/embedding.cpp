#include "kernels/ops/embedding.h"

#include <algorithm>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/beyond_caches.h"
#include "kernels/cpu/isa/embedding.h"
#include "kernels/reference/embedding.h"

namespace sidewinder::cpu {
namespace {

// Columns of one work item of the backward pass: each item walks all tokens in order over its own
// columns, so no two items add to the same element. Fewer columns make more of the pages of memory
// that every row opens, more leave threads without an item.
constexpr int64_t kColumns = 128;

}  // namespace

void embedding(Stream, const EmbeddingArgs& args) {
  if (args.y.dtype() == Dtype::f64) return reference::embedding(args);
  const bool bf16 = args.y.dtype() == Dtype::bf16;
  const int64_t rows_per_item =
      std::max<int64_t>(1, 65536 / std::max<int64_t>(1, args.table.width()));
  parallel_ranges(args.ids.count(), rows_per_item, [&](int64_t begin, int64_t end) {
    const int64_t offset =
        begin * args.y.row_stride() * static_cast<int64_t>(size_of(args.y.dtype()));
    embedding_loops_for_isa().forward({
        .y = static_cast<char*>(args.y.raw()) + offset,
        .ids = args.ids.data<int32_t>() + begin,
        .table = args.table.data<float>(),
        .tokens = end - begin,
        .columns = args.table.width(),
        .y_stride = args.y.row_stride(),
        .table_stride = args.table.row_stride(),
        .y_bf16 = bf16,
        .streams = is_beyond_caches(args.y),
    });
  });
}

void embedding_backward(Stream, const EmbeddingBackwardArgs& args) {
  if (args.dy.dtype() == Dtype::f64) return reference::embedding_backward(args);
  const int64_t element = static_cast<int64_t>(size_of(args.dy.dtype()));
  parallel_ranges(args.dtable.width(), kColumns, [&](int64_t begin, int64_t end) {
    embedding_loops_for_isa().backward({
        .dtable = args.dtable.data<float>() + begin,
        .dy = static_cast<const char*>(args.dy.raw()) + begin * element,
        .ids = args.ids.data<int32_t>(),
        .tokens = args.ids.count(),
        .columns = end - begin,
        .dtable_stride = args.dtable.row_stride(),
        .dy_stride = args.dy.row_stride(),
        .dy_bf16 = args.dy.dtype() == Dtype::bf16,
    });
  });
}

}  // namespace sidewinder::cpu
