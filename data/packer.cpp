#include "data/packer.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "kernels/base/check.h"

namespace sidewinder {

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
  std::stable_sort(cut.begin(), cut.end(), [](const DocumentPiece& a, const DocumentPiece& b) {
    return a.slots > b.slots;
  });

  std::vector<PackedRow> rows;
  std::set<std::pair<int64_t, size_t>> open;  // (room, row), rows with room only
  for (const DocumentPiece& piece : cut) {
    const auto best = open.lower_bound({piece.slots, 0});
    size_t row = rows.size();
    int64_t room = row_length;
    if (best != open.end()) {
      std::tie(room, row) = *best;
      open.erase(best);
    } else {
      rows.emplace_back();
    }
    rows[row].push_back(piece);
    if (room > piece.slots) open.emplace(room - piece.slots, row);
  }
  return rows;
}

}  // namespace sidewinder
