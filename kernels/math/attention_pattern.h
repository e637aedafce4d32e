#pragma once
// Which keys a query may see: one rule, from which masks, tiles to visit and costs are derived.
// Positions are those of one document; documents never see each other whatever the pattern.

#include <algorithm>
#include <cstdint>

namespace sidewinder {

struct AttentionPattern {
  // Visible keys including the query itself; 0 means all earlier ones (full causal attention).
  int64_t window = 0;

  bool allows(int64_t query, int64_t key) const {
    return key <= query && (window == 0 || query - key < window);
  }

  // First visible key of a query at key index `self` in a document that begins at `first`.
  int64_t first_visible(int64_t first, int64_t self) const {
    return window == 0 ? first : std::max(first, self - window + 1);
  }

  // begin ≤ key < end: contains every key that some query of first_query … last_query may see. What
  // a tile of queries has to visit is derived from this alone.
  struct Span {
    int64_t begin, end;
  };
  Span key_span(int64_t first_query, int64_t last_query) const {
    return {first_visible(0, first_query), last_query + 1};
  }

  // Visible (query, key) pairs of a document of `length` tokens.
  int64_t pairs(int64_t length) const {
    if (window == 0 || length <= window) return length * (length + 1) / 2;
    return length * window - window * (window - 1) / 2;
  }
};

}  // namespace sidewinder
