// Matrix products and the fused loss give the same bits for any number of threads.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/ops/linear_cross_entropy.h"
#include "kernels/ops/matmul.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::product_levels;
using testing::random_normal;
using testing::same_bits;

// More than a weight's gradient has blocks, so that they are cut once more.
constexpr int kNumbersOfThreads[] = {1, 2, 3, 24};

// Calls compute() with so many threads, at every level of this CPU; each call returns tensors that
// must not change.
template <typename Compute>
void expect_same_bits(const Compute& compute) {
  const Isa isa_before = active_isa();
  const int threads_before = ThreadPool::global().num_threads();
  for (const Isa isa : product_levels()) {
    force_isa(isa);
    std::vector<Tensor> expected;
    for (const int threads : kNumbersOfThreads) {
      ThreadPool::global().resize(threads);
      const std::vector<Tensor> actual = compute();
      if (threads == 1) expected = actual;
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t i = 0; i < actual.size(); ++i) {
        EXPECT_TRUE(same_bits(actual[i], expected[i]))
            << name_of(isa) << ", " << threads << " threads, result " << i;
      }
    }
  }
  ThreadPool::global().resize(threads_before);
  force_isa(isa_before);
}

TEST(MatmulThreads, ProductsHaveTheSameBits) {
  const Tensor x = random_normal({300, 700}, Dtype::bf16, 1);
  const Tensor w = random_normal({530, 700}, Dtype::f32, 2);
  const Tensor narrow = random_normal({300, 250}, Dtype::bf16, 8);
  const Tensor dy = random_normal({300, 530}, Dtype::bf16, 3);
  for (const Dtype compute : {Dtype::f32, Dtype::bf16}) {
    expect_same_bits([&] {
      const Tensor y =
          ops::linear(x, ops::pack_weight(w, WeightUse::forward, compute), Dtype::bf16);
      const Tensor dx =
          ops::linear(dy, ops::pack_weight(w, WeightUse::backward, compute), Dtype::f32);
      Tensor dweight = Tensor::zeros({530, 700}, Dtype::f32);
      ops::weight_gradient(dweight, dy, x, compute);
      Tensor dnarrow = Tensor::zeros({530, 250}, Dtype::f32);
      ops::weight_gradient(dnarrow, dy, narrow, compute);
      return std::vector<Tensor>{y, dx, dweight, dnarrow};
    });
  }
}

TEST(MatmulThreads, OneRowIsSharedByColumns) {
  const Tensor x = random_normal({1, 90}, Dtype::f32, 4);
  const Tensor w = random_normal({2000, 90}, Dtype::f32, 5);
  expect_same_bits([&] {
    return std::vector<Tensor>{
        ops::linear(x, ops::pack_weight(w, WeightUse::forward, Dtype::f32), Dtype::f32)};
  });
}

TEST(LinearCrossEntropyThreads, LossAndGradientsHaveTheSameBits) {
  const Tensor x = random_normal({190, 40}, Dtype::bf16, 6);
  const Tensor w = random_normal({500, 40}, Dtype::f32, 7);
  std::vector<int32_t> ids;
  ids.reserve(190);
  for (int32_t t = 0; t < 190; ++t) ids.push_back(t % 5 == 2 ? -1 : t * 13 % 500);
  const Tensor targets = Tensor::from({190}, ids);
  for (const Dtype compute : {Dtype::f32, Dtype::bf16}) {
    expect_same_bits([&] {
      Tensor dweight = Tensor::zeros(w.shape(), Dtype::f32);
      const ops::LinearCrossEntropyOut out =
          ops::linear_cross_entropy(x, ops::pack_weight(w, WeightUse::forward, compute),
                                    ops::pack_weight(w, WeightUse::backward, compute), targets,
                                    0.01, {.z_loss = 1e-3}, dweight);
      return std::vector<Tensor>{out.loss, out.token_loss, out.dx, dweight};
    });
  }
}

}  // namespace
}  // namespace sidewinder
