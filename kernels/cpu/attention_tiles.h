#pragma once
// What the attention kernel visits: documents cut into tiles of queries, and the keys of each tile.
//
// A tile visits a span of near keys where they lie, and far keys gathered side by side. Both follow
// from the pattern alone, and so does what a lane sees of them.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/isa/attention.h"
#include "kernels/math/attention_pattern.h"
#include "kernels/tensor/sequence_layout.h"

namespace sidewinder::cpu {

// Queries and keys that see only each other: a document, or in some parts of patterns one class of
// positions, every step-th token of it.
struct Document {
  int64_t first_token;
  int64_t tokens;
  int64_t first_key;  // keys of this document are counted from here
  int64_t past;       // keys before the one of the first token; negative if that one is not visible
  int64_t step = 1;   // tokens from one to the next
  int64_t residue = 0;  // of the class
  int64_t keys() const { return std::max<int64_t>(0, past + tokens); }
};

// Those with tokens.
std::vector<Document> documents_of(const SequenceLayout& layout);
// Their classes. Of the strided part those in which a query sees a key; of others all that have any
// tokens or keys, so that every gradient is written.
std::vector<Document> classes_of(const std::vector<Document>& documents, const AttentionPart& part);

KeyRange intersection(KeyRange a, KeyRange b);
bool is_empty(KeyRange range);

struct TileRange {
  int64_t begin, end;
};

// The queries of one document and key/value head, cut into tiles of lanes.
class QueryTiles {
 public:
  QueryTiles(const Document& document, const AttentionPart& part, int64_t group, int64_t tile_lanes,
             int64_t vector_lanes);

  int64_t count() const { return (lanes_ + tile_lanes_ - 1) / tile_lanes_; }
  int64_t first_lane(int64_t tile) const { return tile * tile_lanes_; }
  int64_t lanes(int64_t tile) const { return std::min(tile_lanes_, lanes_ - first_lane(tile)); }

  // Near keys that a tile visits, relative to the document; even bounds.
  KeyRange span(int64_t tile) const;
  // Far keys that a tile visits, all before its span.
  FarKeys far_keys(int64_t tile) const;

  // What the lanes see of the near keys, as far as first … last tells it.
  void near(int64_t tile, TileKeys& visible) const;
  // Adds the bits of the keys of `block`, if it takes some. They stand until the next call.
  void add_bits(int64_t tile, KeyRange block, TileKeys& near);
  // What they see of far keys begin … end − 1, whose indices are counted from `begin`; the number
  // of indices is rounded up to even. Bits and positions stand until the next call.
  TileKeys far(int64_t tile, const FarKeys& keys, int64_t begin, int64_t end);

 private:
  int64_t query_of(int64_t lane) const { return document_.past + lane / group_; }
  int64_t first_query(int64_t tile) const { return query_of(first_lane(tile)); }
  int64_t last_query(int64_t tile) const { return query_of(first_lane(tile) + lanes(tile) - 1); }
  bool needs_bits(int64_t tile) const;
  // Of keys begin … end − 1, whose positions are at hand.
  void fill_bits(int64_t tile, int64_t begin, int64_t end);

  const Document& document_;
  AttentionPart part_;
  int64_t group_;
  int64_t tile_lanes_;
  int64_t vector_lanes_;
  int64_t lanes_;
  // Of the last TileKeys that were asked for.
  std::vector<int32_t> positions_;
  std::vector<uint32_t> bits_;
};

}  // namespace sidewinder::cpu
