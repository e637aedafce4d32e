#include "kernels/cpu/peak.h"

#include <gtest/gtest.h>

#include "kernels/base/error.h"
#include "kernels/base/thread_pool.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

// Whatever the machine: slower than 0.1 or faster than 100,000 GFLOP/s per thread means that the
// loop was not what it should be (spilled, or removed by the compiler).
TEST(Peak, ArithmeticIsPlausibleAtEveryLevel) {
  testing::for_each_isa([] {
    for (const Dtype compute : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
      const double flops = measure_peak_flops(compute, 1);
      EXPECT_GT(flops, 1e8);
      EXPECT_LT(flops, 1e14);
    }
  });
}

TEST(Peak, IsRememberedPerType) {
  const double first = peak_flops(Dtype::f32);
  EXPECT_EQ(peak_flops(Dtype::f32), first);
  EXPECT_GT(peak_flops(Dtype::bf16), 0);
}

TEST(Peak, RefusesMoreThreadsThanThePoolHas) {
  const int pool = ThreadPool::global().num_threads();
  EXPECT_THROW(measure_peak_flops(Dtype::f32, pool + 1), Error);
  EXPECT_THROW(measure_peak(0), Error);
}

}  // namespace
}  // namespace sidewinder
