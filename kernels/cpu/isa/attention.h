#pragma once
// Inner loops of flash attention on one tile of queries.
//
// A tile is `lanes` vector lanes; a lane is one query of one head. The query heads of a group lie
// side by side: lane r is head r % group of query r / group, so that a tile of a grouped head spans
// few queries. Scores are kept transposed, [key][lane]: sums over keys need no shuffles, and the
// probabilities are at once the right-hand operand of the next product.
//
// Operands are packed in 32-bit words: one f32, or two bf16 that are neighbours along the
// contracted axis where the CPU multiplies such pairs (`pair` = 2). Two forms of a block of rows
// exist:
//   transposed   [width / pair][row]    to contract over the width
//   row pairs    [row / pair][width]    to contract over the rows

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

// Rows of one key/value head, or of the query heads that use it: row r is head r % heads of token
// r / heads. Strides count elements.
struct HeadRows {
  void* data;
  int64_t token_stride;
  int64_t heads;
  int64_t width;
};

// Keys begin ≤ key < end.
struct KeyRange {
  int32_t begin, end;
};

inline constexpr int64_t kMaxTileLanes = 96;
inline constexpr int64_t kMaxTileVectors = 8;
// Keys that may be masked at once, because a lane does not see one of them.
inline constexpr int32_t kMaxStripKeys = 8;

// Keys that the lanes of a tile see. Indices count the keys of the document, or those gathered for
// the tile.
struct TileKeys {
  int64_t vectors;  // in use; lanes past the last query see every key and hold zeros
  alignas(64) int32_t first[kMaxTileLanes];  // first ≤ key ≤ last, unless there are bits
  alignas(64) int32_t last[kMaxTileLanes];
  alignas(64) int32_t query[kMaxTileLanes];  // its position, for biases
  KeyRange any[kMaxTileVectors];             // per vector: contains the keys that some lane sees
  KeyRange all[kMaxTileVectors];             // keys that every lane sees
  // [key − block.begin][vectors], a bit per lane: which see a key outside of `all`, or less than
  // kMaxStripKeys inside. Null: the range first … last says it.
  const uint32_t* bits = nullptr;
  // [key − block.begin]: positions of gathered keys. Null: the index is the position.
  const int32_t* positions = nullptr;
};

// Rows of memory that are wanted after a tile: they are fetched while it is multiplied.
struct RowsAhead {
  struct Piece {
    const char* next;
    int64_t stride, size;  // bytes
    int64_t count;
  };
  Piece pieces[4];
};

struct AttentionForwardTile {
  const TileKeys* visible;
  KeyRange block;        // even bounds; the packed keys are those from `origin` on
  int32_t origin;        // even
  const float* queries;  // transposed [steps][lanes]
  const float* keys;     // transposed [steps][key_stride]
  int64_t key_stride;
  const float* values;  // row pairs [key / pair][value_stride]
  int64_t width;
  int64_t value_width;
  float score_scale;    // scale · log2 e, not negative
  const float* slopes;  // [lanes] of the bias, base 2, or null
  float* out;           // [value_stride][lanes] Σ P·v, added to
  float* reference;     // [lanes] what P is relative to, base 2: a whole number
  float* sum;           // [lanes] Σ P
  float* divisor;       // [lanes] Σ of P as out adds them up: rounded, for bf16
  RowsAhead ahead;
};

// A few queries, as in generation: a tile would be mostly empty lanes, and packing the keys would
// cost more than using them once.
struct AttentionFewQueries {
  HeadRows queries, out;
  HeadRows keys, values;
  int64_t lanes;
  const KeyRange* visible;    // ranges of keys, those of one lane after those of another
  const int64_t* ranges_end;  // per lane: past its last one
  const int64_t* position;    // of the query, per lane
  float score_scale;          // scale · log2 e
  const float* slopes;        // per lane, base 2, or null
  float* query;               // work space [width, padded]
  float* mixed;               // work space [value width, padded]
  float* largest;             // [lanes] largest scaled score (base 2)
  float* sum;                 // [lanes] Σ P
};

struct AttentionBackwardTile {
  const TileKeys* visible;
  KeyRange block;
  int32_t origin;
  const float* queries;      // transposed [steps][lanes]
  const float* query_pairs;  // [lanes / pair][width_stride]
  const float* dout;         // transposed
  const float* dout_pairs;
  const float* keys;       // transposed [steps][key_stride]
  const float* key_pairs;  // [key / pair][width_stride]
  const float* values;     // transposed [value steps][key_stride]
  int64_t key_stride;
  int64_t width;
  int64_t value_width;
  float score_scale;
  const float* slopes;
  const float* lse;    // [lanes] base 2
  const float* delta;  // [lanes]
  float* dquery;       // [width_stride][lanes], added to
  float* dkey;         // [key][width_stride], added to
  float* dvalue;       // [key][value_stride], added to
};

// Functions for one storage type.
struct AttentionFunctions {
  int64_t pair;
  // Rows first … first + count − 1 of `rows`; the words of rows count … padded − 1 are zero.
  // `stride` and `padded` are multiples of the vector length.
  void (*pack_transposed)(const HeadRows& rows, int64_t first, int64_t count, int64_t padded,
                          float* words, int64_t stride);
  void (*pack_pairs)(const HeadRows& rows, int64_t first, int64_t count, int64_t padded,
                     float* words);
  void (*forward)(const AttentionForwardTile& tile);
  void (*few_queries)(const AttentionFewQueries& few);
  void (*backward)(const AttentionBackwardTile& tile);
  // products[i] = Σ a·b of row first + i.
  void (*row_products)(const HeadRows& a, const HeadRows& b, int64_t first, int64_t count,
                       float* products);
  // Row first + i of `rows` = scale[i] · column i of `columns` [width][stride].
  void (*store_columns)(const float* columns, int64_t stride, const float* scale,
                        const HeadRows& rows, int64_t first, int64_t count);
  // Row first + i of `rows` = scale · row i of `source`, whose rows are the padded width apart.
  void (*store_rows)(const float* source, float scale, const HeadRows& rows, int64_t first,
                     int64_t count);
};

struct AttentionIsa {
  int64_t vector_lanes;
  int64_t forward_lanes;  // of a tile
  int64_t backward_lanes;
  AttentionFunctions f32;
  AttentionFunctions bf16;
};

SIDEWINDER_DECLARE_PER_ISA_WITHOUT_SLOW_PAIRS(AttentionIsa, attention_kernels)

}  // namespace sidewinder
