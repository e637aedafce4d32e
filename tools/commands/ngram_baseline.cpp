#include "tools/commands/ngram_baseline.h"

#include <algorithm>
#include <cmath>

namespace sidewinder {
namespace {

uint64_t key(int32_t token, int32_t target) {
  return static_cast<uint64_t>(static_cast<uint32_t>(token)) << 32 | static_cast<uint32_t>(target);
}

// n₁ / (n₁ + 2·n₂), 0.5 where nothing occurs once.
class Discount {
 public:
  void count(int64_t occurrences) {
    if (occurrences == 1) ++once_;
    if (occurrences == 2) ++twice_;
  }
  double value() const {
    return once_ == 0 ? 0.5 : static_cast<double>(once_) / static_cast<double>(once_ + 2 * twice_);
  }

 private:
  int64_t once_ = 0;
  int64_t twice_ = 0;
};

double discount_of(const std::vector<int64_t>& counts) {
  Discount discount;
  for (const int64_t count : counts) discount.count(count);
  return discount.value();
}

}  // namespace

NgramCounts::NgramCounts(int64_t vocabulary)
    : vocabulary_(vocabulary),
      target_counts_(static_cast<size_t>(vocabulary)),
      context_counts_(static_cast<size_t>(vocabulary)),
      context_types_(static_cast<size_t>(vocabulary)),
      continuation_types_(static_cast<size_t>(vocabulary)) {}

void NgramCounts::add(std::span<const int32_t> tokens, std::span<const int32_t> targets) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (targets[i] < 0) continue;
    ++total_;
    ++target_counts_[static_cast<size_t>(targets[i])];
    ++context_counts_[static_cast<size_t>(tokens[i])];
    ++pair_counts_[key(tokens[i], targets[i])];
  }
}

void NgramCounts::finish() {
  Discount pairs;
  for (const auto& [pair, count] : pair_counts_) {
    pairs.count(count);
    ++context_types_[pair >> 32];
    ++continuation_types_[pair & 0xffffffffU];
  }
  pair_discount_ = pairs.value();
  continuation_discount_ = discount_of(continuation_types_);
  unigram_discount_ = discount_of(target_counts_);
  seen_targets_ = std::count_if(target_counts_.begin(), target_counts_.end(),
                                [](int64_t count) { return count > 0; });
}

double NgramCounts::unigram_loss(int32_t target) const {
  const double total = static_cast<double>(total_);
  const double count = static_cast<double>(target_counts_[static_cast<size_t>(target)]);
  const double spread = unigram_discount_ * static_cast<double>(seen_targets_) /
                        static_cast<double>(vocabulary_);
  return -std::log((std::max(count - unigram_discount_, 0.0) + spread) / total);
}

double NgramCounts::bigram_loss(int32_t token, int32_t target) const {
  const double types = static_cast<double>(pair_counts_.size());
  const double continuations = static_cast<double>(continuation_types_[static_cast<size_t>(target)]);
  const double spread = continuation_discount_ * static_cast<double>(seen_targets_) /
                        static_cast<double>(vocabulary_);
  const double continuation =
      (std::max(continuations - continuation_discount_, 0.0) + spread) / types;
  const double context = static_cast<double>(context_counts_[static_cast<size_t>(token)]);
  if (context == 0) return -std::log(continuation);
  const auto found = pair_counts_.find(key(token, target));
  const double count = found == pair_counts_.end() ? 0.0 : static_cast<double>(found->second);
  const double held_back =
      pair_discount_ * static_cast<double>(context_types_[static_cast<size_t>(token)]) / context;
  return -std::log(std::max(count - pair_discount_, 0.0) / context + held_back * continuation);
}

}  // namespace sidewinder
