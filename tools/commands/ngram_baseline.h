#pragma once
// What counting alone achieves: a unigram and an interpolated Kneser-Ney bigram model of token ids.
// A trained model that does not beat them has learnt nothing worth its time.
//
//   bigram   P(w|v) = max(c(vw) − D, 0) / c(v) + D · N₁₊(v·) / c(v) · P_continuation(w)
//   P_continuation(w) = max(N₁₊(·w) − D', 0) / N₁₊(··) + D' · |{w: N₁₊(·w) > 0}| / N₁₊(··) / V
//   unigram  P(w) = max(c(w) − D'', 0) / N + D'' · |{w: c(w) > 0}| / N / V
// with absolute discounts D = n₁ / (n₁ + 2·n₂) of the respective counts. Kneser & Ney 1995; Chen &
// Goodman 1999.

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

namespace sidewinder {

class NgramCounts {
 public:
  explicit NgramCounts(int64_t vocabulary);

  // Pairs (token, target) with target ≥ 0.
  void add(std::span<const int32_t> tokens, std::span<const int32_t> targets);
  // Call once after the last add().
  void finish();

  double unigram_loss(int32_t target) const;                  // −ln P(target)
  double bigram_loss(int32_t token, int32_t target) const;    // −ln P(target | token)
  int64_t pairs() const { return total_; }

 private:
  int64_t vocabulary_;
  int64_t total_ = 0;
  std::unordered_map<uint64_t, int64_t> pair_counts_;
  std::vector<int64_t> target_counts_;
  std::vector<int64_t> context_counts_;       // c(v)
  std::vector<int64_t> context_types_;        // N₁₊(v·)
  std::vector<int64_t> continuation_types_;   // N₁₊(·w)
  double pair_discount_ = 0;
  double continuation_discount_ = 0;
  double unigram_discount_ = 0;
  int64_t seen_targets_ = 0;
};

}  // namespace sidewinder
