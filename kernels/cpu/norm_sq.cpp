#include "kernels/ops/norm_sq.h"

#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/norm_sq.h"
#include "kernels/reference/norm_sq.h"

namespace sidewinder::cpu {
namespace {

constexpr int64_t kElements = 65536;  // of one partial sum
constexpr int64_t kSums = 4;          // of one work item

double partial_sum(const Tensor& x, int64_t begin, int64_t count) {
  switch (x.dtype()) {
    case Dtype::f32: return norm_sq_loops_for_isa().f32(x.data<float>() + begin, count);
    case Dtype::bf16: return norm_sq_loops_for_isa().bf16(&x.data<Bf16>()[begin].bits, count);
    case Dtype::f64: return reference::norm_sq(x.data<double>() + begin, count);
    case Dtype::i32: break;
  }
  SIDEWINDER_ASSERT(false);
  return 0;
}

}  // namespace

void norm_sq(Stream, const NormSqArgs& args) {
  const int64_t count = args.x.count();
  std::vector<double> partial(static_cast<size_t>((count + kElements - 1) / kElements));
  parallel_ranges(count, kSums * kElements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kElements) {
      const int64_t left = end - i;
      partial[static_cast<size_t>(i / kElements)] =
          partial_sum(args.x, i, left < kElements ? left : kElements);
    }
  });
  double sum = 0;
  for (const double value : partial) sum += value;
  args.sum.data<double>()[0] = sum;
}

}  // namespace sidewinder::cpu
