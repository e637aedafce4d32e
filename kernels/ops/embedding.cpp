#include "kernels/ops/embedding.h"

namespace sidewinder {

Kernel<EmbeddingArgs> kEmbedding{"embedding", &cpu::embedding};
Kernel<EmbeddingBackwardArgs> kEmbeddingBackward{"embedding_backward", &cpu::embedding_backward};

namespace ops {
namespace {

void check_table(const Tensor& table) {
  SIDEWINDER_REQUIRE(table.defined() && table.rank() == 2 &&
                         (table.dtype() == Dtype::f32 || table.dtype() == Dtype::f64),
                     "embedding: the table is {} {}; it must be [vocabulary, width] of f32 or f64",
                     table.defined() ? name_of(table.dtype()) : "undefined", table.shape().text());
}

void check_ids(const Tensor& ids, int64_t vocabulary) {
  SIDEWINDER_REQUIRE(
      ids.defined() && ids.rank() == 1 && ids.dtype() == Dtype::i32 && ids.contiguous(),
      "embedding: ids are {} {}; they must be i32 [tokens], one after the other",
      ids.defined() ? name_of(ids.dtype()) : "undefined", ids.shape().text());
  const int32_t* values = ids.data<int32_t>();
  for (int64_t t = 0; t < ids.count(); ++t) {
    SIDEWINDER_REQUIRE(values[t] >= 0 && values[t] < vocabulary,
                       "embedding: token {} has id {} but the table has {} rows; the data was made "
                       "with another tokenizer, or model.vocabulary is too small",
                       t, values[t], vocabulary);
  }
}

// f64 goes with f64 only.
bool may_mix(Dtype activation, Dtype table) {
  return activation != Dtype::i32 && table == accumulator_of(activation);
}

}  // namespace

Tensor embedding(const Tensor& ids, const Tensor& table, Dtype dtype) {
  check_table(table);
  check_ids(ids, table.size(0));
  SIDEWINDER_REQUIRE(may_mix(dtype, table.dtype()),
                     "embedding: cannot make {} from a table of {}; f64 does not mix with other "
                     "types",
                     name_of(dtype), name_of(table.dtype()));
  Tensor y = Tensor::empty({ids.count(), table.size(1)}, dtype, table.device());
  kEmbedding(current_stream(table.device()), {y, ids, table});
  return y;
}

void embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) {
  check_table(dtable);
  check_ids(ids, dtable.size(0));
  SIDEWINDER_REQUIRE(dy.defined() && dy.shape() == Shape({ids.count(), dtable.size(1)}) &&
                         may_mix(dy.dtype(), dtable.dtype()),
                     "embedding_backward: dy is {} {} but must be [{}, {}] to go with the ids and "
                     "with a table of {}",
                     dy.defined() ? name_of(dy.dtype()) : "undefined", dy.shape().text(),
                     ids.count(), dtable.size(1), name_of(dtable.dtype()));
  kEmbeddingBackward(current_stream(dtable.device()), {dtable, dy, ids});
}

}  // namespace ops
}  // namespace sidewinder
