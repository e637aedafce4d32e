#pragma once
// Best-fit-decreasing packing of documents into rows (Ding et al. 2024, arXiv:2404.10830).
//
// Slots, not tokens, fill a row: with joints masked and documents isolated, a document of n tokens
// has n − 1 predictions and takes n − 1 slots, slot i holding token i as input and token i + 1 as
// target. A document longer than a row is cut into pieces of a row's length and a remainder; piece
// [first, first + slots) reads tokens first … first + slots, so neighbouring pieces share one token
// and every (input, target) pair of the document occurs exactly once.

//
// Pieces may instead be left whole: a row that begins with one of more slots than a row has stands
// for several rows that follow each other, all but the last of them full.

#include <cstdint>
#include <span>
#include <vector>

#include "data/options.h"

namespace sidewinder {

// Some consecutive slots of one document.
struct DocumentPiece {
  int32_t corpus = 0;
  int64_t document = 0;
  int64_t first = 0;  // slot
  int64_t slots = 0;
  bool operator==(const DocumentPiece&) const = default;
};

using PackedRow = std::vector<DocumentPiece>;  // in the order in which they stand

// Cuts `pieces` to at most row_length slots each and places them in order of decreasing slots
// (equal ones: as given, then by `first`) into the row with the least room that still holds them
// (equal ones: the oldest row). Pieces without slots are left out.
std::vector<PackedRow> pack_best_fit(std::span<const DocumentPiece> pieces, int64_t row_length);

// The same without cutting: a piece longer than a row begins rows of its own, the last of which
// others may share. So does each of `begun`, whatever its length; their rows come first.
std::vector<PackedRow> pack_whole(std::span<const DocumentPiece> pieces, int64_t row_length,
                                  std::span<const DocumentPiece> begun = {});

}  // namespace sidewinder
