#include "kernels/reference/embedding.h"

namespace sidewinder::reference {

void embedding(const EmbeddingArgs& args) {
  for (int64_t t = 0; t < args.ids.count(); ++t) {
    const int64_t id = args.ids.data<int32_t>()[t];
    for (int64_t i = 0; i < args.table.width(); ++i) {
      args.y.data<double>()[t * args.y.row_stride() + i] =
          args.table.data<double>()[id * args.table.row_stride() + i];
    }
  }
}

void embedding_backward(const EmbeddingBackwardArgs& args) {
  for (int64_t t = 0; t < args.ids.count(); ++t) {
    const int64_t id = args.ids.data<int32_t>()[t];
    for (int64_t i = 0; i < args.dtable.width(); ++i) {
      args.dtable.data<double>()[id * args.dtable.row_stride() + i] +=
          args.dy.data<double>()[t * args.dy.row_stride() + i];
    }
  }
}

}  // namespace sidewinder::reference
