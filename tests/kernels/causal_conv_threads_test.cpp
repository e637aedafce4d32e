#include <gtest/gtest.h>

#include <vector>

#include "kernels/ops/causal_conv.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::same_bits;

std::vector<Tensor> run(Dtype dtype) {
  const std::vector<int32_t> starts = {0, 100, 164, 165, 400};
  const SequenceLayout layout = SequenceLayout::packed(2, 300, starts);
  const int64_t tokens = layout.tokens();
  const int64_t channels = 300;
  const Tensor x = random_normal({tokens, channels}, dtype, 1);
  const Tensor weight = random_normal({channels, 4}, Dtype::f32, 2);
  const Tensor bias = random_normal({channels}, Dtype::f32, 3);
  Tensor dweight = Tensor::zeros(weight.shape(), Dtype::f32);
  Tensor dbias = Tensor::zeros(bias.shape(), Dtype::f32);
  const Tensor y = ops::causal_conv(x, weight, bias, layout).y;
  const Tensor dx =
      ops::causal_conv_backward(dweight, dbias, random_normal({tokens, channels}, dtype, 4), x,
                                weight, bias, layout)
          .dx;
  return {y, dx, dweight, dbias};
}

TEST(CausalConvThreads, AnyNumberOfThreadsGivesTheSameBits) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    std::vector<Tensor> expected;
    testing::for_each_pool_size([&](int threads) {
      const std::vector<Tensor> actual = run(dtype);
      if (expected.empty()) expected = actual;
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(same_bits(actual[i], expected[i])) << "result " << i << ", " << threads;
      }
    });
  }
}

}  // namespace
}  // namespace sidewinder
