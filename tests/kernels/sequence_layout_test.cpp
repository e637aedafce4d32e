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

}  // namespace
}  // namespace sidewinder
