#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/ops/selective_scan.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::same_bits;

struct Shape {
  int64_t rows, length, channels;
};

std::vector<Tensor> run(const Shape& shape, Dtype dtype) {
  const int64_t channels = shape.channels;
  const int64_t states = 16;
  const std::vector<int32_t> starts = {0, 100, 164, 165};
  const SequenceLayout layout = SequenceLayout::packed(shape.rows, shape.length, starts);
  const int64_t tokens = layout.tokens();
  const Tensor a = random_normal({channels, states}, Dtype::f32, 3);
  for (int64_t i = 0; i < a.count(); ++i) a.data<float>()[i] = -std::abs(a.data<float>()[i]);
  const SelectiveScanInputs in = {.u = random_normal({tokens, channels}, dtype, 1),
                                  .delta = random_normal({tokens, channels}, dtype, 2),
                                  .a = a,
                                  .b = random_normal({tokens, states}, dtype, 4),
                                  .c = random_normal({tokens, states}, dtype, 5),
                                  .d = random_normal({channels}, Dtype::f32, 6),
                                  .z = random_normal({tokens, channels}, dtype, 7),
                                  .delta_bias = random_normal({channels}, Dtype::f32, 8),
                                  .initial = {}};
  Tensor da = Tensor::zeros(a.shape(), Dtype::f32);
  Tensor dd = Tensor::zeros({channels}, Dtype::f32);
  Tensor ddelta_bias = Tensor::zeros({channels}, Dtype::f32);
  const ops::SelectiveScanOut forward = ops::selective_scan(in, layout, true, true);
  const SelectiveScanGradients gradients =
      ops::selective_scan_backward(da, dd, ddelta_bias, random_normal({tokens, channels}, dtype, 9),
                                   in, forward.chunk_states, layout);
  return {forward.out,  forward.final_state, gradients.du, gradients.ddelta,
          gradients.db, gradients.dc,        gradients.dz, da,
          dd,           ddelta_bias};
}

TEST(SelectiveScanThreads, AnyNumberOfThreadsGivesTheSameBits) {
  // Groups of channels that are wide or narrow, as there are few threads or many; long rows; more
  // rows than are done side by side.
  for (const Shape& shape :
       {Shape{3, 150, 300}, Shape{1, 300, 700}, Shape{2, 1300, 40}, Shape{60, 30, 20}}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      std::vector<Tensor> expected;
      testing::for_each_pool_size([&](int threads) {
        const std::vector<Tensor> actual = run(shape, dtype);
        if (expected.empty()) expected = actual;
        for (size_t i = 0; i < expected.size(); ++i) {
          EXPECT_TRUE(same_bits(actual[i], expected[i]))
              << "result " << i << " of " << shape.rows << " rows, " << threads << " threads";
        }
      });
    }
  }
}

}  // namespace
}  // namespace sidewinder
