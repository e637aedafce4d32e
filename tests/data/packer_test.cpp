#include "data/packer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <vector>

#include "tests/support/small_corpus.h"

namespace sidewinder {
namespace {

std::vector<DocumentPiece> documents(const std::vector<int64_t>& slots) {
  std::vector<DocumentPiece> pieces;
  for (size_t i = 0; i < slots.size(); ++i) {
    pieces.push_back({0, static_cast<int64_t>(i), 0, slots[i]});
  }
  return pieces;
}

std::vector<std::vector<int64_t>> slots_of(const std::vector<PackedRow>& rows) {
  std::vector<std::vector<int64_t>> result;
  for (const PackedRow& row : rows) {
    std::vector<int64_t>& slots = result.emplace_back();
    for (const DocumentPiece& piece : row) slots.push_back(piece.slots);
  }
  return result;
}

using Slots = std::vector<std::vector<int64_t>>;

TEST(Packer, CutsOnlyWhatIsLongerThanARow) {
  const auto rows = pack_best_fit(documents({14, 7, 5, 2, 3}), 8);
  EXPECT_EQ(slots_of(rows), (Slots{{8}, {7}, {6, 2}, {5, 3}}));
  EXPECT_EQ(rows[0][0], (DocumentPiece{0, 0, 0, 8}));
  EXPECT_EQ(rows[2][0], (DocumentPiece{0, 0, 8, 6}));
}

TEST(Packer, TakesTheRowWithTheLeastRoom) {
  EXPECT_EQ(slots_of(pack_best_fit(documents({5, 4, 3, 9, 2, 6, 1, 7, 8, 3}), 10)),
            (Slots{{9, 1}, {8, 2}, {7, 3}, {6, 4}, {5, 3}}));
}

TEST(Packer, BreaksTiesByOrderAndByTheOldestRow) {
  // Documents 0 to 2 open three rows with equal room; 3 and 4 go to the oldest ones.
  const auto rows = pack_best_fit(documents({6, 6, 6, 3, 3}), 10);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0], (PackedRow{{0, 0, 0, 6}, {0, 3, 0, 3}}));
  EXPECT_EQ(rows[1], (PackedRow{{0, 1, 0, 6}, {0, 4, 0, 3}}));
  EXPECT_EQ(rows[2], (PackedRow{{0, 2, 0, 6}}));
}

TEST(Packer, LeavesOutPiecesWithoutSlots) {
  EXPECT_EQ(slots_of(pack_best_fit(documents({0, 3, 0}), 4)), (Slots{{3}}));
  EXPECT_TRUE(pack_best_fit({}, 4).empty());
}

TEST(Packer, ConservesEverySlotAndNeverOverflows) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    const auto pieces = documents(testing::random_lengths(200, 90, seed));
    for (const int64_t row_length : {1, 2, 7, 32, 89, 90, 91, 1000}) {
      std::map<int64_t, std::set<int64_t>> seen;
      int64_t total = 0;
      for (const PackedRow& row : pack_best_fit(pieces, row_length)) {
        int64_t used = 0;
        for (const DocumentPiece& piece : row) {
          used += piece.slots;
          const bool whole = piece.slots == pieces[static_cast<size_t>(piece.document)].slots;
          // A piece of a document is as long as a row, or the remainder at its end.
          EXPECT_TRUE(whole || piece.slots == row_length ||
                      piece.first + piece.slots ==
                          pieces[static_cast<size_t>(piece.document)].slots);
          for (int64_t i = 0; i < piece.slots; ++i) {
            EXPECT_TRUE(seen[piece.document].insert(piece.first + i).second);
          }
        }
        EXPECT_LE(used, row_length);
        total += used;
      }
      int64_t expected = 0;
      for (const DocumentPiece& piece : pieces) expected += piece.slots;
      EXPECT_EQ(total, expected);
    }
  }
}

// Whatever opens a new row fits in none before it. So each row but the last has less room than the
// longest piece that fits in a row with others, and padding is at most that more than what is left
// over when documents are simply concatenated.
TEST(Packer, PaddingStaysWithinItsBound) {
  for (const int64_t row_length : {64, 256, 1024}) {
    for (const int64_t longest : {16, 90, 1500}) {
      const auto pieces = documents(testing::random_lengths(2000, longest, 5));
      int64_t slots = 0;
      int64_t longest_part = 0;
      for (const DocumentPiece& piece : pieces) {
        slots += piece.slots;
        const int64_t rest = piece.slots % row_length;
        longest_part = std::max(longest_part, piece.slots < row_length ? piece.slots : rest);
      }
      const auto rows = static_cast<int64_t>(pack_best_fit(pieces, row_length).size());
      const auto padding = static_cast<double>(rows * row_length - slots);
      const int64_t concatenated = (slots + row_length - 1) / row_length * row_length - slots;
      const auto bound = static_cast<double>(concatenated + (rows - 1) * longest_part);
      const auto total = static_cast<double>(rows * row_length);
      std::printf(
          "rows of %4ld, documents to %4ld: padding %.3f %%, concatenated %.3f %%, bound %.3f %%\n",
          static_cast<long>(row_length), static_cast<long>(longest), 100 * padding / total,
          100 * static_cast<double>(concatenated) / total, 100 * bound / total);
      EXPECT_GE(padding, static_cast<double>(concatenated));
      EXPECT_LE(padding, bound);
      // Far below it where there are short documents to fill with.
      EXPECT_LE(padding / total, 0.01 + static_cast<double>(concatenated) / total);
    }
  }
}

TEST(Packer, LongPiecesLeftWholeBeginRowsThatOthersShare) {
  const auto piece = [](int64_t document, int64_t slots) {
    return DocumentPiece{0, document, 0, slots};
  };
  // Rows of 8: 21 = 8 + 8 + 5 leaves room for 3, 16 leaves none, 11 = 8 + 3 for 5.
  const std::vector<DocumentPiece> pieces = {piece(0, 3),  piece(1, 21), piece(2, 16), piece(3, 0),
                                             piece(4, 11), piece(5, 4),  piece(6, 6)};
  EXPECT_EQ(pack_whole(pieces, 8), (std::vector<PackedRow>{{piece(1, 21), piece(0, 3)},
                                                           {piece(2, 16)},
                                                           {piece(4, 11), piece(5, 4)},
                                                           {piece(6, 6)}}));
  // What was begun before comes first, whatever its length.
  const std::vector<DocumentPiece> begun = {piece(7, 2), piece(8, 8)};
  EXPECT_EQ(pack_whole(pieces, 8, begun), (std::vector<PackedRow>{{piece(7, 2), piece(6, 6)},
                                                                  {piece(8, 8)},
                                                                  {piece(1, 21), piece(0, 3)},
                                                                  {piece(2, 16)},
                                                                  {piece(4, 11), piece(5, 4)}}));
}

}  // namespace
}  // namespace sidewinder
