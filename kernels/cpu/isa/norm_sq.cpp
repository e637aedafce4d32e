#include "kernels/cpu/isa/norm_sq.h"

#include "kernels/cpu/isa/elementwise.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

inline constexpr int kHalf = kLanes / 2;
using F64 = double __attribute__((vector_size(kHalf * 8)));
using F32Half = float __attribute__((vector_size(kHalf * 4)));

// Elements. The hardware stops at the end of every page.
inline constexpr int64_t kAhead = 512;

// Four f64 accumulators; a square of an f32 is exact in f64.
template <typename T>
double sum_of_squares(const T* x, int64_t count) {
  F64 sums[4] = {};
  const auto add = [&](F32 value, int first) {
    F32Half halves[2];
    __builtin_memcpy(halves, &value, sizeof halves);
    const F64 low = __builtin_convertvector(halves[0], F64);
    const F64 high = __builtin_convertvector(halves[1], F64);
    sums[first] += low * low;
    sums[first + 1] += high * high;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    prefetch(x + i, kAhead);
    if constexpr (sizeof(T) == sizeof(float)) prefetch(x + i + kLanes, kAhead);
    add(load(x + i), 0);
    add(load(x + i + kLanes), 2);
  }
  for (; i < count; i += kLanes) {
    add(load_count(x + i, static_cast<int>(count - i < kLanes ? count - i : kLanes)), 0);
  }
  const F64 sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int lane = 0; lane < kHalf; ++lane) total += sum[lane];
  return total;
}

}  // namespace

extern const NormSqLoops norm_sq_loops = {sum_of_squares<float>, sum_of_squares<uint16_t>};

}  // namespace sidewinder::SIDEWINDER_ISA
