#pragma once
// y_t = table[ids_t]. Backward adds dy_t to row ids_t, tokens in ascending order within a row, so
// the sum has one order whatever the number of threads.

#include "kernels/ops/kernel.h"

namespace sidewinder {

struct EmbeddingArgs {
  Tensor& y;            // [T, D] f32|bf16|f64
  const Tensor& ids;    // i32 [T], each in [0, V)
  const Tensor& table;  // [V, D] f32 (f64)
};

struct EmbeddingBackwardArgs {
  Tensor& dtable;  // [V, D] f32 (f64), added to
  const Tensor& dy;
  const Tensor& ids;
};

namespace cpu {
void embedding(Stream, const EmbeddingArgs&);
void embedding_backward(Stream, const EmbeddingBackwardArgs&);
}  // namespace cpu

extern Kernel<EmbeddingArgs> kEmbedding;
extern Kernel<EmbeddingBackwardArgs> kEmbeddingBackward;

namespace ops {
// An id outside the table is Error{user} naming it.
Tensor embedding(const Tensor& ids, const Tensor& table, Dtype dtype);
void embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids);
}  // namespace ops

}  // namespace sidewinder
