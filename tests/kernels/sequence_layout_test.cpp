#include "kernels/tensor/sequence_layout.h"

#include <gtest/gtest.h>

#include <vector>

namespace sidewinder {
namespace {

std::vector<double> of(const Tensor& tensor) { return tensor.values(); }

TEST(SequenceLayout, DocumentsOfLengthOneAreDistinct) {
  const std::vector<int32_t> starts = {0, 3, 4, 5};
  const SequenceLayout layout = SequenceLayout::packed(1, 9, starts);
  EXPECT_EQ(of(layout.position), (std::vector<double>{0, 1, 2, 0, 0, 0, 1, 2, 3}));
  EXPECT_EQ(of(layout.document_start), (std::vector<double>{0, 0, 0, 3, 4, 5, 5, 5, 5}));
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
  const SequenceLayout whole =
      SequenceLayout::packed(2, 6, starts, positions).with_carried({1, 0});
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
