#include "kernels/ops/embedding.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/base/philox.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::relative_error;
using testing::same_bits;

Tensor random_ids(int64_t tokens, int64_t vocabulary) {
  Tensor ids = Tensor::empty({tokens}, Dtype::i32);
  const Philox random(9, "ids");
  for (int64_t t = 0; t < tokens; ++t) {
    ids.data<int32_t>()[t] = static_cast<int32_t>(
        random.below(static_cast<uint64_t>(t), static_cast<uint64_t>(vocabulary)));
  }
  return ids;
}

TEST(Embedding, CopiesRows) {
  testing::for_each_isa([] {
    for (const int64_t width : {1, 15, 16, 33, 200}) {
      const Tensor table = random_normal({11, width}, Dtype::f32, 1);
      const Tensor ids = random_ids(70, 11);
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
        const Tensor y = ops::embedding(ids, table, dtype);
        const Tensor rounded = table.to(dtype);
        for (int64_t t = 0; t < 70; ++t) {
          const int32_t id = ids.data<int32_t>()[t];
          EXPECT_TRUE(same_bits(y.slice_rows(t, t + 1), rounded.slice_rows(id, id + 1)));
        }
      }
    }
  });
}

TEST(Embedding, BackwardAddsInTokenOrder) {
  testing::for_each_isa([] {
    for (const int64_t width : {1, 15, 64, 65, 130}) {
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
        const Tensor ids = random_ids(90, 7);
        const Tensor dy = random_normal({90, width}, dtype, 2);
        Tensor dtable = random_normal({7, width}, Dtype::f32, 3);
        Tensor expected = dtable.clone();
        for (int64_t t = 0; t < 90; ++t) {
          float* row = expected.data<float>() + ids.data<int32_t>()[t] * width;
          for (int64_t i = 0; i < width; ++i) row[i] += static_cast<float>(dy.at(t * width + i));
        }
        ops::embedding_backward(dtable, dy, ids);
        EXPECT_TRUE(same_bits(dtable, expected));
      }
    }
  });
}

// ⟨J v, w⟩ = ⟨v, Jᵀ w⟩: the operation is linear in the table.
TEST(Embedding, BackwardIsTheTransposeOfForward) {
  const Tensor ids = random_ids(40, 9);
  const Tensor table = random_normal({9, 6}, Dtype::f64, 4);
  const Tensor dy = random_normal({40, 6}, Dtype::f64, 5);
  Tensor dtable = Tensor::zeros({9, 6}, Dtype::f64);
  const Tensor y = ops::embedding(ids, table, Dtype::f64);
  ops::embedding_backward(dtable, dy, ids);
  double left = 0;
  double right = 0;
  for (int64_t i = 0; i < y.count(); ++i) left += y.at(i) * dy.at(i);
  for (int64_t i = 0; i < table.count(); ++i) right += table.at(i) * dtable.at(i);
  EXPECT_NEAR(left, right, 1e-12);
}

TEST(Embedding, AnyNumberOfThreadsGivesTheSameBits) {
  const Tensor ids = random_ids(3000, 50);
  const Tensor dy_wide = random_normal({3000, 300}, Dtype::bf16, 6);
  const Tensor dy = dy_wide.columns(7, 207);
  Tensor first;
  testing::for_each_pool_size([&](int size) {
    Tensor dtable = Tensor::zeros({50, 200}, Dtype::f32);
    ops::embedding_backward(dtable, dy, ids);
    if (size == 1) first = dtable;
    EXPECT_TRUE(same_bits(dtable, first));
  });
}

TEST(Embedding, AcceptsNoTokens) {
  const Tensor ids = Tensor::empty({0}, Dtype::i32);
  Tensor table = random_normal({3, 4}, Dtype::f32, 1);
  const Tensor y = ops::embedding(ids, table, Dtype::bf16);
  EXPECT_EQ(y.shape(), Shape({0, 4}));
  const Tensor before = table.clone();
  ops::embedding_backward(table, y, ids);
  EXPECT_TRUE(same_bits(table, before));
}

TEST(Embedding, NamesAnIdOutsideTheTable) {
  const Tensor table = random_normal({5, 4}, Dtype::f32, 1);
  for (const int32_t bad : {-1, 5}) {
    const Tensor ids = Tensor::from<int32_t>({3}, {0, bad, 4});
    try {
      ops::embedding(ids, table, Dtype::f32);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::user);
      EXPECT_EQ(std::string(error.what()),
                fmt::format("embedding: token 1 has id {} but the table has 5 rows; the data was "
                            "made with another tokenizer, or model.vocabulary is too small",
                            bad));
    }
  }
}

}  // namespace
}  // namespace sidewinder
