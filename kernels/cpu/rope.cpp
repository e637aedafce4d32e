#include "kernels/cpu/isa/rope.h"

#include <algorithm>

#include "kernels/base/thread_pool.h"
#include "kernels/ops/rope.h"
#include "kernels/reference/rope.h"

namespace sidewinder {
namespace {

constexpr int64_t kElementsPerItem = 1 << 15;

void rope_f64(const RopeArgs& args, int64_t begin, int64_t end) {
  const int64_t pairs = args.table.cosine.size(1);
  const int64_t width = args.x.size(2);
  const reference::RopeHead head{width, pairs, args.table.interleaved, args.inverse};
  for (int64_t t = begin; t < end; ++t) {
    const int64_t entry = args.position.data<int32_t>()[t] * pairs;
    for (int64_t h = 0; h < args.x.size(1); ++h) {
      reference::rope_head(head, args.x.data<double>() + t * args.x.row_stride() + h * width,
                           args.table.cosine.data<double>() + entry,
                           args.table.sine.data<double>() + entry,
                           args.y.data<double>() + t * args.y.row_stride() + h * width);
    }
  }
}

void rope_vectors(const RopeArgs& args, int64_t begin, int64_t end) {
  RopeRows rows{};
  rows.y = args.y.slice_rows(begin, end).raw();
  rows.x = args.x.slice_rows(begin, end).raw();
  rows.position = args.position.data<int32_t>() + begin;
  rows.cosine = args.table.cosine.data<float>();
  rows.sine = args.table.sine.data<float>();
  rows.tokens = end - begin;
  rows.heads = args.x.size(1);
  rows.width = args.x.size(2);
  rows.pairs = args.table.cosine.size(1);
  rows.x_stride = args.x.row_stride();
  rows.y_stride = args.y.row_stride();
  rows.interleaved = args.table.interleaved;
  rows.inverse = args.inverse;
  const RopeIsa& isa = rope_kernels_for_isa();
  (args.x.dtype() == Dtype::bf16 ? isa.turn_bf16 : isa.turn_f32)(rows);
}

}  // namespace

void cpu::rope(Stream, const RopeArgs& args) {
  const int64_t grain =
      std::max<int64_t>(1, kElementsPerItem / std::max<int64_t>(1, args.x.width()));
  parallel_ranges(args.x.size(0), grain, [&](int64_t begin, int64_t end) {
    if (args.x.dtype() == Dtype::f64) {
      rope_f64(args, begin, end);
    } else {
      rope_vectors(args, begin, end);
    }
  });
}

}  // namespace sidewinder
