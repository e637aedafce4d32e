#include "trainer/perplexity.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr int64_t kTokensAtOnce = 4096;

void add_losses(const Tensor& positions, const std::vector<int32_t>& targets, const Tensor& losses,
                LossSums& sums) {
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    sums.nats += losses.at(static_cast<int64_t>(t));
    ++sums.targets;
  }
  sums.by_position.add(positions, targets, losses);
}

Tensor ids_of(const std::vector<int32_t>& ids) {
  return Tensor::from<int32_t>({static_cast<int64_t>(ids.size())}, ids);
}

}  // namespace

std::vector<EvaluationWindow> strided_windows(int64_t predictions, int64_t length, int64_t stride) {
  SIDEWINDER_REQUIRE(
      length >= 1 && stride >= 1 && stride <= length,
      "windows of {} predictions every {}: the stride must be at least 1 and at most "
      "the length, or predictions would be left out",
      length, stride);
  std::vector<EvaluationWindow> windows;
  int64_t scored = 0;
  for (int64_t begin = 0; scored < predictions; begin += stride) {
    const int64_t end = std::min(begin + length, predictions);
    windows.push_back({begin, end, end - scored});
    scored = end;
  }
  return windows;
}

std::vector<EvaluationWindow> single_window(int64_t predictions, int64_t length) {
  SIDEWINDER_REQUIRE(length >= 1, "a window of {} predictions is not possible", length);
  if (predictions < length) return {};
  return {{0, length, length}};
}

double LossSums::perplexity() const { return std::exp(loss()); }

void WindowEvaluation::add(std::span<const int32_t> document,
                           const std::vector<EvaluationWindow>& windows) {
  for (const EvaluationWindow& window : windows) {
    const int64_t count = window.end - window.begin;
    if (!tokens_.empty() && static_cast<int64_t>(tokens_.size()) + count > kTokensAtOnce) run();
    starts_.push_back(static_cast<int32_t>(tokens_.size()));
    for (int64_t i = window.begin; i < window.end; ++i) {
      tokens_.push_back(document[static_cast<size_t>(i)]);
      const bool counts = i >= window.end - window.scored;
      targets_.push_back(counts ? document[static_cast<size_t>(i + 1)] : -1);
    }
    ++sums_.windows;
  }
}

const LossSums& WindowEvaluation::finish() {
  if (!tokens_.empty()) run();
  return sums_;
}

// Windows stand one after the other in one row, each a document of its own.
void WindowEvaluation::run() {
  const SequenceLayout layout =
      SequenceLayout::packed(1, static_cast<int64_t>(tokens_.size()), starts_);
  const LossOut out = model_.loss(nullptr, dtype_, {layout, layout}, ids_of(tokens_),
                                  ids_of(targets_), {.scale = 1.0});
  add_losses(layout.position, targets_, out.token_loss, sums_);
  tokens_.clear();
  targets_.clear();
  starts_.clear();
}

void add_stream(HybridModel& model, Dtype dtype, std::span<const int32_t> document, int64_t chunk,
                LossSums& sums) {
  SIDEWINDER_REQUIRE(chunk >= 1, "a stream in chunks of {} tokens is not possible", chunk);
  const auto predictions = static_cast<int64_t>(document.size()) - 1;
  GenerationState state;
  for (int64_t begin = 0; begin < predictions; begin += chunk) {
    const int64_t end = std::min(begin + chunk, predictions);
    const std::vector<int32_t> tokens(document.begin() + begin, document.begin() + end);
    const std::vector<int32_t> targets(document.begin() + begin + 1, document.begin() + end + 1);
    const Tensor losses = model.next_losses(dtype, tokens, targets, state);
    std::vector<int32_t> positions(tokens.size());
    for (size_t t = 0; t < positions.size(); ++t)
      positions[t] = static_cast<int32_t>(begin) + static_cast<int32_t>(t);
    add_losses(ids_of(positions), targets, losses, sums);
  }
  ++sums.windows;
}

}  // namespace sidewinder
