#include "data/batch.h"

namespace sidewinder {

SequenceLayout make_layout(const Batch& batch, bool isolate) {
  if (!isolate) return SequenceLayout::unpacked(batch.rows, batch.row_length);
  return SequenceLayout::packed(batch.rows, batch.row_length, batch.document_starts,
                                batch.first_positions);
}

}  // namespace sidewinder
