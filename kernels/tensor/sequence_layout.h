#pragma once
// Where documents start inside packed rows, and each token's position in its document. Every layer
// that mixes tokens (attention, convolution, scan) takes one; packing is a property of the
// sequence.
//
// A batch has `rows` rows of `row_length` tokens, stored one after the other: token t = row ·
// row_length + offset, T tokens in all. No document crosses a row edge. A row may continue a
// sequence whose earlier part is not in the batch ("carried"): its first document then starts from
// the initial state of the scan and convolution, and sees `past` cached keys.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace sidewinder {

struct SequenceLayout {
  int64_t rows = 0;
  int64_t row_length = 0;
  // Cached keys before each row (attention only; 0 in training). Key and value tensors then have
  // rows · (past + row_length) rows, the cached ones first in each row.
  int64_t past = 0;
  std::vector<uint8_t> carried;  // [rows] 1: the row's first document continues a carried state

  Tensor document_start;  // i32 [T]  token index of the first token of t's document in this batch
  Tensor position;        // i32 [T]  position of t in its document (rotary angle)
  Tensor first_key;       // i32 [T]  key index of the first key of t's document
  std::vector<int32_t> document_starts;  // all values of document_start, ascending

  int64_t tokens() const { return rows * row_length; }
  int64_t keys() const { return rows * (past + row_length); }
  // The key that belongs to token t.
  int64_t key_of(int64_t t) const {
    return t / row_length * (past + row_length) + past + t % row_length;
  }
  bool is_carried(int64_t row) const { return carried[static_cast<size_t>(row)] != 0; }

  // One document per row.
  static SequenceLayout unpacked(int64_t rows, int64_t row_length);

  // `starts`: ascending token indices at which documents begin; those of rows are implied. Repeats,
  // and the end, are empty documents. `first_positions`: of each one's first token; empty means 0.
  static SequenceLayout packed(int64_t rows, int64_t row_length, std::span<const int32_t> starts,
                               std::span<const int32_t> first_positions = {});

  // Continues `rows` sequences by row_length tokens each: every row is carried, its first token has
  // position `position`, and it sees the last `valid_past` of its `past` cached keys.
  static SequenceLayout continuation(int64_t rows, int64_t row_length, int64_t position,
                                     int64_t past = 0, int64_t valid_past = 0);

  // The same, but rows that are marked go on from states before them.
  SequenceLayout with_carried(std::vector<uint8_t> rows_carried) const;
  // The same for attention with `cache` cached keys before each row: the first document of a
  // carried row sees the last seen[row] of them, no other document any.
  SequenceLayout with_cache(int64_t cache, std::span<const int64_t> seen) const;
  // Tokens begin … end − 1 of each row, which go on from what came before them in their documents.
  SequenceLayout columns(int64_t begin, int64_t end) const;
};

}  // namespace sidewinder
