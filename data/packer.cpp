#include "data/packer.h"

#include <algorithm>
#include <set>
#include <utility>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

// Rows that are filled by best fit.
class OpenRows {
 public:
  explicit OpenRows(int64_t row_length) : row_length_(row_length) {}

  // A new row, or several, that begin with this piece.
  void begin(const DocumentPiece& piece) {
    const int64_t in_last_row = (piece.slots - 1) % row_length_ + 1;
    if (in_last_row < row_length_) open_.emplace(row_length_ - in_last_row, rows_.size());
    rows_.push_back({piece});
  }

  void place(const DocumentPiece& piece) {
    const auto best = open_.lower_bound({piece.slots, 0});
    if (best == open_.end()) return begin(piece);
    const auto [room, row] = *best;
    open_.erase(best);
    rows_[row].push_back(piece);
    if (room > piece.slots) open_.emplace(room - piece.slots, row);
  }

  std::vector<PackedRow> take() { return std::move(rows_); }

 private:
  int64_t row_length_;
  std::vector<PackedRow> rows_;
  std::set<std::pair<int64_t, size_t>> open_;  // (room, row), rows with room only
};

void sort_by_slots(std::vector<DocumentPiece>& pieces) {
  std::stable_sort(
      pieces.begin(), pieces.end(),
      [](const DocumentPiece& a, const DocumentPiece& b) { return a.slots > b.slots; });
}

}  // namespace

std::vector<PackedRow> pack_best_fit(std::span<const DocumentPiece> pieces, int64_t row_length) {
  SIDEWINDER_ASSERT(row_length >= 1);
  std::vector<DocumentPiece> cut;
  cut.reserve(pieces.size());
  for (DocumentPiece piece : pieces) {
    const int64_t end = piece.first + piece.slots;
    for (; piece.first < end; piece.first += piece.slots) {
      piece.slots = std::min(row_length, end - piece.first);
      cut.push_back(piece);
    }
  }
  sort_by_slots(cut);
  OpenRows rows(row_length);
  for (const DocumentPiece& piece : cut) rows.place(piece);
  return rows.take();
}

std::vector<PackedRow> pack_whole(std::span<const DocumentPiece> pieces, int64_t row_length,
                                  std::span<const DocumentPiece> begun) {
  SIDEWINDER_ASSERT(row_length >= 1);
  OpenRows rows(row_length);
  for (const DocumentPiece& piece : begun) rows.begin(piece);
  std::vector<DocumentPiece> sorted(pieces.begin(), pieces.end());
  sort_by_slots(sorted);
  for (const DocumentPiece& piece : sorted) {
    if (piece.slots > 0) rows.place(piece);  // no row has room for one that is longer than a row
  }
  return rows.take();
}

}  // namespace sidewinder
