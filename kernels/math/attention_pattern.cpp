#include "kernels/math/attention_pattern.h"

#include <fmt/core.h>

namespace sidewinder {
namespace {

// Keys below `end` that all later queries see, as ranges.
template <typename Visit>
void for_each_shared(const AttentionPattern& pattern, int64_t end, const Visit& visit) {
  const int64_t first = std::min(pattern.global, end);
  if (first > 0) visit(0, first);
  if (pattern.summary == 0) return;
  const int64_t block = pattern.block;
  for (int64_t begin = first / block * block; begin < end; begin += block) {
    const int64_t column = std::max(first, begin + block - pattern.summary);
    const int64_t column_end = std::min(begin + block, end);
    if (column < column_end) visit(column, column_end);
  }
}

int64_t visible_keys(const AttentionPattern& pattern, int64_t query) {
  const AttentionRow row = pattern.row(query);
  if (const int64_t classes = pattern.classes(); classes > 1) {
    const AttentionPattern within = pattern.within_class();
    return query / classes - within.first_near(query / classes) + 1;
  }
  int64_t seen = 0;
  if (pattern.stride != 0 && pattern.dilation == 1 && pattern.summary == 0 && pattern.random == 0) {
    const int64_t shared = std::min(pattern.global, row.first_near);
    return shared + query - row.first_near + 1 + (query - shared) / pattern.stride -
           (query - row.first_near) / pattern.stride;
  }
  if (pattern.dilation > 1 || pattern.stride != 0) {
    for (int64_t key = 0; key <= query; ++key) seen += row.allows(key) ? 1 : 0;
    return seen;
  }
  for_each_shared(pattern, row.first_near,
                  [&](int64_t begin, int64_t end) { seen += end - begin; });
  for (int64_t i = 0; i < row.drawn; ++i) {
    for (int64_t token = 0; token < pattern.block; ++token) {
      seen += pattern.is_shared(row.blocks[i] * pattern.block + token) ? 0 : 1;
    }
  }
  return seen + query - row.first_near + 1;
}

}  // namespace

std::string AttentionPattern::mistake() const {
  if (window < 0) {
    return fmt::format("window {} is negative; use 0 for full causal attention", window);
  }
  if (dilation < 1) return fmt::format("dilation {} is below 1, which is none", dilation);
  if (block < 1) return fmt::format("block {} is below 1, which is none", block);
  if (window % block != 0) {
    return fmt::format("window {} is not a multiple of block {}", window, block);
  }
  if (dilation > 1 && block > 1) {
    return fmt::format("dilation {} with block {}; one of them must be 1", dilation, block);
  }
  if (global < 0) return fmt::format("global {} is negative; use 0 for no global tokens", global);
  if (stride < 0) return fmt::format("stride {} is negative; use 0 for none", stride);
  if (summary < 0 || summary > block) {
    return fmt::format("summary {} is not between 0 and block {}", summary, block);
  }
  if (random < 0 || random > kMostRandom) {
    return fmt::format("random {} is not between 0 and {}", random, kMostRandom);
  }
  return "";
}

std::vector<AttentionPart> AttentionPattern::parts() const {
  if (classes() > 1) return {{.pattern = within_class(), .step = classes()}};
  if (stride == 1) return {{.pattern = {}}};
  AttentionPattern rest = *this;
  rest.stride = 0;
  if (stride == 0 || (window == 0 && dilation == 1)) return {{.pattern = rest}};
  std::vector<AttentionPart> parts = rest.parts();
  parts.insert(parts.begin(), {.pattern = {}, .step = stride, .strided = true, .others = rest});
  return parts;
}

bool AttentionPart::sees_all_near() const {
  if (!strided) return pattern.dilation == 1;
  return others.dilation == 1 && others.summary == 0 && others.random == 0;
}

AttentionPattern::Span AttentionPart::near(int64_t query, int64_t r) const {
  if (!strided) return {pattern.first_near(query), query + 1};
  const auto classed = [&](int64_t position) {  // the first of the class from there on
    return position <= r ? 0 : (position - r + step - 1) / step;
  };
  // What the others see for sure, at both ends, is not of this part.
  const int64_t begin = classed(others.global);
  const int64_t end = others.dilation == 1 ? classed(others.first_near(query * step + r)) : query;
  return {begin, end};
}

FarKeys AttentionPattern::far_keys(int64_t first, int64_t last, int64_t end) const {
  FarKeys far;
  for_each_shared(*this, end, [&](int64_t begin, int64_t stop) {
    for (int64_t key = begin; key < stop; ++key) far.keys.push_back(static_cast<int32_t>(key));
  });
  far.shared = static_cast<int64_t>(far.keys.size());
  std::vector<int32_t> others;
  const auto add = [&](int64_t key) {
    if (!is_shared(key)) others.push_back(static_cast<int32_t>(key));
  };
  for (int64_t query = first / block * block; random != 0 && query <= last; query += block) {
    const AttentionRow drawn = row(std::max(query, first));
    for (int64_t i = 0; i < drawn.drawn; ++i) {
      const int64_t begin = drawn.blocks[i] * block;
      for (int64_t key = begin; key < std::min(begin + block, end); ++key) add(key);
    }
  }
  if (stride != 0) {
    // The residues of these queries.
    for (int64_t query = first; query <= std::min(last, first + stride - 1); ++query) {
      for (int64_t key = query % stride; key < end; key += stride) add(key);
    }
  }
  std::sort(others.begin(), others.end());
  others.erase(std::unique(others.begin(), others.end()), others.end());
  far.keys.insert(far.keys.end(), others.begin(), others.end());
  return far;
}

int64_t AttentionPattern::pairs(int64_t length) const {
  if (contiguous() && block == 1) {
    if (window == 0 || length <= window) return length * (length + 1) / 2;
    return length * window - window * (window - 1) / 2;
  }
  int64_t total = 0;
  for (int64_t query = 0; query < length; ++query) total += visible_keys(*this, query);
  return total;
}

int64_t AttentionPattern::tiles(int64_t length, int64_t size) const {
  int64_t total = 0;
  for (int64_t first = 0; first < length; first += size) {
    const int64_t last = std::min(first + size, length) - 1;
    const Span near = near_span(first, last);
    std::vector<int64_t> tiles;
    for (const int32_t key : far_keys(first, last, near.begin).keys) tiles.push_back(key / size);
    for (int64_t tile = near.begin / size; tile * size < near.end; ++tile) tiles.push_back(tile);
    std::sort(tiles.begin(), tiles.end());
    total += std::unique(tiles.begin(), tiles.end()) - tiles.begin();
  }
  return total;
}

}  // namespace sidewinder
