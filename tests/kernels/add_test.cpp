#include "kernels/ops/add.h"

#include <gtest/gtest.h>

#include "kernels/base/error.h"
#include "kernels/base/thread_pool.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::same_bits;

constexpr Dtype kTypes[] = {Dtype::f32, Dtype::bf16, Dtype::f64};

// The sum in the wider arithmetic, rounded once. f64 holds the exact sum of two bf16 or f32 here.
Tensor expected_sum(const Tensor& a, const Tensor& b, Dtype dtype) {
  Tensor sum = Tensor::empty(a.shape(), Dtype::f64);
  const bool in_f64 = a.dtype() == Dtype::f64 || b.dtype() == Dtype::f64 || dtype == Dtype::f64;
  for (int64_t i = 0; i < a.count(); ++i) {
    const double exact = a.at(i) + b.at(i);
    sum.data<double>()[i] = in_f64 ? exact : static_cast<double>(static_cast<float>(exact));
  }
  return sum.to(dtype);
}

TEST(Add, RoundsOnceForEveryPairOfTypes) {
  testing::for_each_isa([] {
    for (const int64_t width : {1, 7, 16, 33}) {
      for (const Dtype of_a : kTypes) {
        for (const Dtype of_b : kTypes) {
          for (const Dtype of_y : kTypes) {
            const Tensor a = random_normal({5, width}, of_a, 1);
            const Tensor b = random_normal({5, width + 3}, of_b, 2).columns(2, 2 + width);
            EXPECT_TRUE(same_bits(ops::add(a, b, of_y), expected_sum(a, b, of_y)))
                << width << ' ' << name_of(of_a) << " + " << name_of(of_b) << " as "
                << name_of(of_y);
          }
        }
      }
    }
  });
}

TEST(Add, AddToWritesInPlace) {
  for (const Dtype of_y : kTypes) {
    for (const Dtype of_x : kTypes) {
      Tensor y = random_normal({3, 40}, of_y, 3);
      const Tensor x = random_normal({3, 40}, of_x, 4);
      const Tensor expected = expected_sum(y, x, of_y);
      ops::add_to(y, x);
      EXPECT_TRUE(same_bits(y, expected)) << name_of(of_y) << " += " << name_of(of_x);
    }
  }
}

TEST(Add, LargeTensorsAreWholeForAnyNumberOfThreads) {
  const Tensor a = random_normal({1, 100003}, Dtype::f32, 5);
  const Tensor b = random_normal({1, 100003}, Dtype::bf16, 6);
  const Tensor expected = expected_sum(a, b, Dtype::f32);
  const int before = ThreadPool::global().num_threads();
  for (int threads = 1; threads <= 3; ++threads) {
    ThreadPool::global().resize(threads);
    EXPECT_TRUE(same_bits(ops::add(a, b, Dtype::f32), expected));
  }
  ThreadPool::global().resize(before);
}

TEST(Add, DifferentShapesAreRefused) {
  const Tensor a = Tensor::zeros({2, 3}, Dtype::f32);
  const Tensor b = Tensor::zeros({3, 2}, Dtype::f32);
  try {
    ops::add(a, b, Dtype::f32);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "add: the operands are [2, 3] and [3, 2]; they must agree");
  }
}

}  // namespace
}  // namespace sidewinder
