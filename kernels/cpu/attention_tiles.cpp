#include "kernels/cpu/attention_tiles.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/base/rounding.h"

namespace sidewinder::cpu {

std::vector<Document> documents_of(const SequenceLayout& layout) {
  std::vector<Document> documents;
  const std::vector<int32_t>& starts = layout.document_starts;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t begin = starts[i];
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : layout.tokens();
    const int64_t first_key = layout.first_key.data<int32_t>()[begin];
    if (begin < end) {
      documents.push_back({begin, end - begin, first_key, layout.key_of(begin) - first_key});
    }
  }
  return documents;
}

std::vector<Document> classes_of(const std::vector<Document>& documents,
                                 const AttentionPart& part) {
  std::vector<Document> classes;
  const int64_t step = part.step;
  for (const Document& document : documents) {
    // Class r has keys r, r + step, …; its first query is token `skipped`.
    for (int64_t r = 0; r < step; ++r) {
      const int64_t skipped = ((r - document.past) % step + step) % step;
      const int64_t tokens = std::max<int64_t>(0, (document.tokens - skipped + step - 1) / step);
      const Document found{document.first_token + skipped,       tokens, document.first_key + r,
                           (document.past + skipped - r) / step, step,   r};
      const AttentionPattern::Span seen = part.near(found.past + tokens - 1, r);
      const bool sees_nothing = tokens == 0 || seen.begin >= seen.end;
      if (part.strided ? !sees_nothing : tokens > 0 || found.keys() > 0) classes.push_back(found);
    }
  }
  return classes;
}

KeyRange intersection(KeyRange a, KeyRange b) {
  const int32_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}
bool is_empty(KeyRange range) { return range.begin >= range.end; }

QueryTiles::QueryTiles(const Document& document, const AttentionPart& part, int64_t group,
                       int64_t tile_lanes, int64_t vector_lanes)
    : document_(document),
      part_(part),
      group_(group),
      tile_lanes_(tile_lanes),
      vector_lanes_(vector_lanes),
      lanes_(document.tokens * group) {}

KeyRange QueryTiles::span(int64_t tile) const {
  const int64_t first = part_.near(first_query(tile), document_.residue).begin;
  const int64_t last = part_.near(last_query(tile), document_.residue).end;
  const auto begin = static_cast<int32_t>(first & ~int64_t{1});
  const auto end = static_cast<int32_t>(round_up(std::max<int64_t>(0, last), 2));
  return {std::min(begin, end), end};
}

FarKeys QueryTiles::far_keys(int64_t tile) const {
  if (part_.sees_only_near()) return {};
  return part_.pattern.far_keys(first_query(tile), last_query(tile), span(tile).begin);
}

void QueryTiles::near(int64_t tile, TileKeys& visible) const {
  constexpr int32_t kLowest = std::numeric_limits<int32_t>::min();
  constexpr int32_t kHighest = std::numeric_limits<int32_t>::max();
  // Otherwise no key is sure to be seen, and any may be.
  const bool every_key = part_.sees_all_near();
  const bool far_too = needs_bits(tile);
  visible.bits = nullptr;
  visible.positions = nullptr;
  visible.vectors = divide_up(lanes(tile), vector_lanes_);
  const int64_t used = lanes(tile);
  int64_t self = first_query(tile);
  int64_t heads = group_ - first_lane(tile) % group_;  // of this query that are still to come
  AttentionPattern::Span near = part_.near(self, document_.residue);
  for (int64_t v = 0; v < visible.vectors; ++v) {
    KeyRange any = {kHighest, 0};
    KeyRange all = {0, every_key ? kHighest : 0};
    for (int64_t lane = v * vector_lanes_; lane < (v + 1) * vector_lanes_; ++lane) {
      if (lane >= used) {
        visible.first[lane] = kLowest;
        visible.last[lane] = kHighest;
        visible.query[lane] = 0;
        continue;
      }
      const auto first = static_cast<int32_t>(near.begin);
      const auto last = static_cast<int32_t>(near.end - 1);
      visible.first[lane] = first;
      visible.last[lane] = last;
      visible.query[lane] = static_cast<int32_t>(self);
      all = {std::max(all.begin, first), std::min(all.end, last + 1)};
      if (first <= last)
        any = {std::min(any.begin, far_too ? 0 : first), std::max(any.end, last + 1)};
      if (--heads == 0) {
        heads = group_;
        near = part_.near(++self, document_.residue);
      }
    }
    if (any.begin > any.end) any = {0, 0};
    visible.any[v] = any;
    visible.all[v] = all;
  }
}

bool QueryTiles::needs_bits(int64_t tile) const {
  if (part_.strided) return !part_.sees_all_near();
  const AttentionPattern& pattern = part_.pattern;
  return pattern.dilation != 1 || pattern.summary != 0 || pattern.random != 0 ||
         pattern.global > span(tile).begin;
}

void QueryTiles::add_bits(int64_t tile, KeyRange block, TileKeys& near) {
  if (!needs_bits(tile)) return;
  KeyRange full = block;
  for (int64_t v = 0; v < near.vectors; ++v) full = intersection(full, near.all[v]);
  // Strips that are partly full are masked.
  full = {full.begin + kMaxStripKeys, full.end - kMaxStripKeys};
  if (is_empty(full)) full = {block.end, block.end};
  positions_.resize(static_cast<size_t>(block.end - block.begin));
  std::iota(positions_.begin(), positions_.end(), block.begin);
  fill_bits(tile, 0, full.begin - block.begin);
  fill_bits(tile, full.end - block.begin, block.end - block.begin);
  near.bits = bits_.data();
}

TileKeys QueryTiles::far(int64_t tile, const FarKeys& keys, int64_t begin, int64_t end) {
  TileKeys visible;
  near(tile, visible);
  const auto count = static_cast<int32_t>(end - begin);
  const auto shared = static_cast<int32_t>(std::clamp<int64_t>(keys.shared - begin, 0, count));
  for (int64_t v = 0; v < visible.vectors; ++v) {
    visible.any[v] = {0, count};
    visible.all[v] = {0, shared};
  }
  positions_.assign(keys.keys.begin() + begin, keys.keys.begin() + end);
  positions_.resize(static_cast<size_t>(round_up(count, 2)), positions_.back());
  fill_bits(tile, std::max(0, shared - kMaxStripKeys), count);
  std::fill_n(bits_.data() + count * visible.vectors, (count & 1) * visible.vectors, 0U);
  visible.bits = bits_.data();
  visible.positions = positions_.data();
  return visible;
}

void QueryTiles::fill_bits(int64_t tile, int64_t begin, int64_t end) {
  const int64_t vectors = divide_up(lanes(tile), vector_lanes_);
  bits_.resize(std::max(bits_.size(), positions_.size() * static_cast<size_t>(vectors)));
  if (begin >= end) return;
  std::vector<AttentionPartRow> rows;
  for (int64_t query = first_query(tile); query <= last_query(tile); ++query) {
    rows.emplace_back(part_, query, document_.residue);
  }
  for (int64_t i = begin; i < end; ++i) {
    uint32_t* const words = bits_.data() + i * vectors;
    std::fill_n(words, vectors, 0U);
    int64_t lane = 0;
    // Lanes of one query; the first may lack some of its heads.
    int64_t heads = group_ - first_lane(tile) % group_;
    for (const AttentionPartRow& row : rows) {
      const int64_t stop = std::min(lane + heads, lanes(tile));
      heads = group_;
      if (row.allows(positions_[static_cast<size_t>(i)])) {
        for (int64_t l = lane; l < stop; ++l) words[l / vector_lanes_] |= 1U << (l % vector_lanes_);
      }
      lane = stop;
    }
  }
}

}  // namespace sidewinder::cpu
