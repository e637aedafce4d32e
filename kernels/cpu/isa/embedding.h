#pragma once
// Gathering and adding of table rows, over a range of columns: the inner loops of cpu::embedding.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

// Pointers are at the first column of the range. Strides in elements; a bf16 element is a uint16_t.
struct EmbeddingRows {
  void* y;
  const int32_t* ids;
  const float* table;
  int64_t tokens, columns, y_stride, table_stride;
  bool y_bf16;
  bool streams;  // y is read much later: it need not stay in the caches
};

struct EmbeddingBackwardRows {
  float* dtable;
  const void* dy;
  const int32_t* ids;
  int64_t tokens, columns, dtable_stride, dy_stride;
  bool dy_bf16;
};

struct EmbeddingLoops {
  void (*forward)(const EmbeddingRows&);
  void (*backward)(const EmbeddingBackwardRows&);
};
SIDEWINDER_DECLARE_PER_ISA(EmbeddingLoops, embedding_loops)

}  // namespace sidewinder
