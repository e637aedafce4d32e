#include "kernels/cpu/isa/add.h"

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

template <typename Y, typename A, typename B>
void add_row(void* y_row, const void* a_row, const void* b_row, int64_t count) {
  Y* y = static_cast<Y*>(y_row);
  const A* a = static_cast<const A*>(a_row);
  const B* b = static_cast<const B*>(b_row);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, load(a + i) + load(b + i));
  if (const int left = static_cast<int>(count - i); left > 0) {
    store_partial(y + i, load_partial(a + i, left) + load_partial(b + i, left), left);
  }
}

using Half = uint16_t;

}  // namespace

extern const AddKernels add_kernels = {
    {{{add_row<float, float, float>, add_row<float, float, Half>},
      {add_row<float, Half, float>, add_row<float, Half, Half>}},
     {{add_row<Half, float, float>, add_row<Half, float, Half>},
      {add_row<Half, Half, float>, add_row<Half, Half, Half>}}}};

}  // namespace sidewinder::SIDEWINDER_ISA
