#include "kernels/tensor/sequence_layout.h"

#include <limits>
#include <utility>

namespace sidewinder {
namespace {

SequenceLayout with_sizes(int64_t rows, int64_t row_length, int64_t past) {
  SIDEWINDER_REQUIRE(rows >= 0 && row_length >= 1 && past >= 0,
                     "sequence layout: {} rows of {} tokens after {} cached keys is not possible",
                     rows, row_length, past);
  SIDEWINDER_REQUIRE(rows * (past + row_length) <= std::numeric_limits<int32_t>::max(),
                     "sequence layout: {} rows of {} tokens and {} cached keys exceed 2^31 keys in "
                     "one micro-batch; use smaller micro-batches",
                     rows, row_length, past);
  SequenceLayout layout;
  layout.rows = rows;
  layout.row_length = row_length;
  layout.past = past;
  layout.carried.assign(static_cast<size_t>(rows), 0);
  layout.document_start = Tensor::empty({rows * row_length}, Dtype::i32);
  layout.position = Tensor::empty({rows * row_length}, Dtype::i32);
  layout.first_key = Tensor::empty({rows * row_length}, Dtype::i32);
  return layout;
}

}  // namespace

SequenceLayout SequenceLayout::unpacked(int64_t rows, int64_t row_length) {
  return packed(rows, row_length, {});
}

SequenceLayout SequenceLayout::packed(int64_t rows, int64_t row_length,
                                      std::span<const int32_t> starts,
                                      std::span<const int32_t> first_positions) {
  SequenceLayout layout = with_sizes(rows, row_length, 0);
  SIDEWINDER_ASSERT(first_positions.empty() || first_positions.size() == starts.size());
  int32_t* document_start = layout.document_start.data<int32_t>();
  int32_t* position = layout.position.data<int32_t>();
  int32_t* first_key = layout.first_key.data<int32_t>();
  size_t next = 0;
  int32_t start = 0;
  int32_t first_position = 0;
  for (int64_t t = 0; t < layout.tokens(); ++t) {
    const bool listed = next < starts.size() && starts[next] == t;
    // Of documents that begin at the same token all but the last are empty.
    while (listed && next + 1 < starts.size() && starts[next + 1] == t) ++next;
    if (listed || t % row_length == 0) {
      start = static_cast<int32_t>(t);
      first_position = listed && !first_positions.empty() ? first_positions[next] : 0;
      layout.document_starts.push_back(start);
      if (listed) ++next;
    }
    document_start[t] = start;
    position[t] = first_position + static_cast<int32_t>(t) - start;
    first_key[t] = start;
  }
  while (next < starts.size() && starts[next] == layout.tokens()) ++next;
  SIDEWINDER_ASSERT(next == starts.size());  // ascending and inside the batch
  return layout;
}

SequenceLayout SequenceLayout::continuation(int64_t rows, int64_t row_length, int64_t position,
                                            int64_t past, int64_t valid_past) {
  SIDEWINDER_ASSERT(0 <= valid_past && valid_past <= past);
  SequenceLayout layout = with_sizes(rows, row_length, past);
  layout.carried.assign(static_cast<size_t>(rows), 1);
  for (int64_t row = 0; row < rows; ++row) {
    layout.document_starts.push_back(static_cast<int32_t>(row * row_length));
    for (int64_t i = 0; i < row_length; ++i) {
      const int64_t t = row * row_length + i;
      layout.document_start.data<int32_t>()[t] = static_cast<int32_t>(row * row_length);
      layout.position.data<int32_t>()[t] = static_cast<int32_t>(position + i);
      layout.first_key.data<int32_t>()[t] =
          static_cast<int32_t>(row * (past + row_length) + past - valid_past);
    }
  }
  return layout;
}

SequenceLayout SequenceLayout::with_carried(std::vector<uint8_t> rows_carried) const {
  SIDEWINDER_ASSERT(static_cast<int64_t>(rows_carried.size()) == rows);
  SequenceLayout layout = *this;
  layout.carried = std::move(rows_carried);
  return layout;
}

SequenceLayout SequenceLayout::with_cache(int64_t cache, std::span<const int64_t> seen) const {
  SIDEWINDER_ASSERT(past == 0 && static_cast<int64_t>(seen.size()) == rows);
  SequenceLayout layout = with_sizes(rows, row_length, cache);
  layout.carried = carried;
  layout.document_start = document_start;
  layout.position = position;
  layout.document_starts = document_starts;
  for (int64_t t = 0; t < tokens(); ++t) {
    const int64_t start = document_start.data<int32_t>()[t];
    const int64_t row = t / row_length;
    const bool sees_cache = start == row * row_length && is_carried(row);
    const int64_t before = sees_cache ? seen[static_cast<size_t>(row)] : 0;
    SIDEWINDER_ASSERT(0 <= before && before <= cache);
    layout.first_key.data<int32_t>()[t] = static_cast<int32_t>(layout.key_of(start) - before);
  }
  return layout;
}

SequenceLayout SequenceLayout::columns(int64_t begin, int64_t end) const {
  SIDEWINDER_ASSERT(past == 0 && 0 <= begin && begin < end && end <= row_length);
  const int64_t length = end - begin;
  std::vector<int32_t> starts;
  std::vector<int32_t> first_positions;
  std::vector<uint8_t> goes_on;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = row * row_length + begin;
    const bool inside = document_start.data<int32_t>()[first] < first;
    goes_on.push_back(inside || (begin == 0 && is_carried(row)) ? 1 : 0);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t t = first + i;
      if (i > 0 && document_start.data<int32_t>()[t] != t) continue;
      starts.push_back(static_cast<int32_t>(row * length + i));
      first_positions.push_back(position.data<int32_t>()[t]);
    }
  }
  return packed(rows, length, starts, first_positions).with_carried(std::move(goes_on));
}

}  // namespace sidewinder
