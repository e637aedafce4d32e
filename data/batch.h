#pragma once
// What one optimizer step eats: packed rows of tokens, their targets, and where documents begin.

#include <cstdint>
#include <vector>

#include "kernels/tensor/sequence_layout.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {

inline constexpr int32_t kIgnoredTarget = -1;

// How many rows of what length to make: a function of progress, so that the context can grow.
struct RowPlan {
  int64_t rows = 0;
  int64_t row_length = 0;
  bool operator==(const RowPlan&) const = default;
};

struct Batch {
  int64_t rows = 0;
  int64_t row_length = 0;
  std::vector<int32_t> tokens;   // [rows · row_length]; padding holds token 0
  std::vector<int32_t> targets;  // the next token of the same document, or kIgnoredTarget
  std::vector<int32_t>
      document_starts;  // ascending token indices; padding is a document of its own
  std::vector<int32_t> first_positions;  // position of each document's first token (0 unless a
                                         // continued piece keeps its positions)
  // [rows] 1: the row's first document goes on from the same row of the batch before, whose state it
  // takes over; empty: none does.
  std::vector<uint8_t> carried;
  // [rows] 1: the row's last document goes on in the next batch.
  std::vector<uint8_t> goes_on;
  int64_t num_targets = 0;
  int64_t num_padding = 0;  // row slots that hold no document
};

}  // namespace sidewinder
