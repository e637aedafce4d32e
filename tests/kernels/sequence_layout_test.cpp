#include "kernels/tensor/sequence_layout.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/math/attention_pattern.h"

namespace sidewinder {
namespace {

std::vector<double> of(const Tensor& tensor) { return tensor.values(); }

TEST(SequenceLayout, DocumentsOfLengthOneAreDistinct) {
  const std::vector<int32_t> starts = {0, 3, 4, 5};
  const SequenceLayout layout = SequenceLayout::packed(1, 9, starts);
  EXPECT_EQ(of(layout.position), (std::vector<double>{0, 1, 2, 0, 0, 0, 1, 2, 3}));
  EXPECT_EQ(of(layout.document_start), (std::vector<double>{0, 0, 0, 3, 4, 5, 5, 5, 5}));
}

// (query, key) pairs that the rule lets through, of all T · T.
int64_t cells(const SequenceLayout& layout, const AttentionPattern& pattern) {
  const int32_t* const start = layout.document_start.data<int32_t>();
  const int32_t* const position = layout.position.data<int32_t>();
  int64_t count = 0;
  for (int64_t query = 0; query < layout.tokens(); ++query) {
    for (int64_t key = 0; key < layout.tokens(); ++key) {
      const bool same = start[query] == start[key];
      count += same && pattern.allows(position[query], position[key]) ? 1 : 0;
    }
  }
  return count;
}

TEST(SequenceLayout, GoldenMetadataOfPackedDocuments) {
  struct Row {
    std::vector<int32_t> starts;  // the last one is the end: an empty document
    std::vector<double> positions;
    std::vector<double> document_starts;
    int64_t causal_cells, windowed_cells, unpacked_cells;  // the window has 3 tokens
  };
  const std::vector<Row> rows = {
      {{0, 3, 8, 14, 16},
       {0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 1},
       {0, 0, 0, 3, 3, 3, 3, 3, 8, 8, 8, 8, 8, 8, 14, 14},
       45,
       36,
       136},
      {{0, 3, 4, 5, 9}, {0, 1, 2, 0, 0, 0, 1, 2, 3}, {0, 0, 0, 3, 4, 5, 5, 5, 5}, 18, 17, 45}};
  for (const Row& row : rows) {
    const int64_t tokens = row.starts.back();
    const SequenceLayout layout = SequenceLayout::packed(1, tokens, row.starts);
    EXPECT_EQ(of(layout.position), row.positions);
    EXPECT_EQ(of(layout.document_start), row.document_starts);
    EXPECT_EQ(of(layout.first_key), row.document_starts);
    EXPECT_EQ(layout.document_starts,
              std::vector<int32_t>(row.starts.begin(), row.starts.end() - 1));
    EXPECT_EQ(cells(layout, {}), row.causal_cells);
    EXPECT_EQ(cells(layout, {.window = 3}), row.windowed_cells);
    EXPECT_EQ(cells(SequenceLayout::unpacked(1, tokens), {}), row.unpacked_cells);
  }
}

TEST(SequenceLayout, EmptyDocumentsLeaveNoTrace) {
  const std::vector<int32_t> starts = {0, 3, 4, 8};
  const std::vector<int32_t> first = {5, 0, 7, 2};
  const SequenceLayout expected = SequenceLayout::packed(2, 5, starts, first);
  // In front, in between, at a row's edge and, as filling, behind the end.
  const std::vector<int32_t> with_empty = {0, 0, 3, 3, 3, 4, 8, 10, 10, 10};
  const std::vector<int32_t> first_with_empty = {9, 5, 9, 9, 0, 7, 2, 9, 9, 9};
  const SequenceLayout layout = SequenceLayout::packed(2, 5, with_empty, first_with_empty);
  EXPECT_EQ(layout.document_starts, expected.document_starts);
  EXPECT_EQ(of(layout.document_start), of(expected.document_start));
  EXPECT_EQ(of(layout.position), of(expected.position));
  EXPECT_EQ(of(layout.first_key), of(expected.first_key));
}

TEST(SequenceLayout, RowsAlwaysBeginADocument) {
  const std::vector<int32_t> starts = {2};
  const SequenceLayout layout = SequenceLayout::packed(2, 4, starts);
  EXPECT_EQ(layout.document_starts, (std::vector<int32_t>{0, 2, 4}));
  EXPECT_EQ(of(layout.position), (std::vector<double>{0, 1, 0, 1, 0, 1, 2, 3}));
}

TEST(SequenceLayout, ContinuedPiecesMayKeepTheirPositions) {
  const std::vector<int32_t> starts = {0, 2};
  const std::vector<int32_t> first = {7, 0};
  const SequenceLayout layout = SequenceLayout::packed(1, 4, starts, first);
  EXPECT_EQ(of(layout.position), (std::vector<double>{7, 8, 0, 1}));
}

TEST(SequenceLayout, ContinuationSeesItsCachedKeys) {
  const SequenceLayout layout = SequenceLayout::continuation(2, 2, 10, 8, 3);
  EXPECT_EQ(layout.keys(), 20);
  EXPECT_EQ(layout.key_of(0), 8);
  EXPECT_EQ(layout.key_of(3), 19);
  EXPECT_EQ(of(layout.first_key), (std::vector<double>{5, 5, 15, 15}));
  EXPECT_EQ(of(layout.position), (std::vector<double>{10, 11, 10, 11}));
  EXPECT_TRUE(layout.is_carried(1));
}

TEST(SequenceLayout, CarriedRowsSeeCachedKeysInTheirFirstDocumentAlone) {
  const std::vector<int32_t> starts = {0, 2, 4, 8};
  const std::vector<int32_t> positions = {9, 0, 0, 5};
  const SequenceLayout base =
      SequenceLayout::packed(3, 4, starts, positions).with_carried({1, 0, 1});
  const std::vector<int64_t> seen = {2, 3, 0};
  const SequenceLayout layout = base.with_cache(3, seen);
  EXPECT_EQ(layout.keys(), 21);
  EXPECT_EQ(of(layout.first_key),
            (std::vector<double>{1, 1, 5, 5, 10, 10, 10, 10, 17, 17, 17, 17}));
  EXPECT_EQ(of(layout.position), of(base.position));
  EXPECT_EQ(layout.document_starts, base.document_starts);
  EXPECT_EQ(layout.carried, base.carried);
}

TEST(SequenceLayout, ColumnsGoOnFromWhatCameBefore) {
  // Rows of 6: a carried document of 3 and one of 3; one of 4 and one of 2.
  const std::vector<int32_t> starts = {0, 3, 6, 10};
  const std::vector<int32_t> positions = {7, 0, 0, 0};
  const SequenceLayout whole = SequenceLayout::packed(2, 6, starts, positions).with_carried({1, 0});
  const SequenceLayout first = whole.columns(0, 2);
  EXPECT_EQ(first.carried, (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(of(first.position), (std::vector<double>{7, 8, 0, 1}));
  const SequenceLayout second = whole.columns(2, 5);
  EXPECT_EQ(second.rows, 2);
  EXPECT_EQ(second.row_length, 3);
  EXPECT_EQ(second.carried, (std::vector<uint8_t>{1, 1}));
  EXPECT_EQ(of(second.position), (std::vector<double>{9, 0, 1, 2, 3, 0}));
  EXPECT_EQ(second.document_starts, (std::vector<int32_t>{0, 1, 3, 5}));
  // A chunk that begins where a document does goes on from nothing.
  EXPECT_EQ(whole.columns(3, 6).carried, (std::vector<uint8_t>{0, 1}));
  EXPECT_EQ(whole.columns(4, 6).carried, (std::vector<uint8_t>{1, 0}));
}

}  // namespace
}  // namespace sidewinder
