#pragma once
// Perplexity of whole documents: at given context lengths, and in one pass with carried state.
//
// A document of N tokens has N − 1 predictions: token i predicts token i + 1. Its first token is
// predicted by nothing. Means are over predictions, not over windows. Conventions:
//   strided        windows of n predictions begin every S; each scores those that no window before
//                  it has scored, the last one ends with the document. S = n: no overlap.
//   single window  the first n predictions of every document that has as many.
//   stream         one pass in chunks; caches of keys and states of scans are carried, so that
//                  every prediction sees all that its layers can remember.
// In the first two every window starts anew: positions from 0, states zero.

#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"
#include "trainer/position_losses.h"

namespace sidewinder {

// Predictions [begin, end) of a document, of which the last `scored` count.
struct EvaluationWindow {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t scored = 0;
  bool operator==(const EvaluationWindow&) const = default;
};
// Error{user} unless 1 ≤ stride ≤ length.
std::vector<EvaluationWindow> strided_windows(int64_t predictions, int64_t length, int64_t stride);
// Empty where the document is shorter.
std::vector<EvaluationWindow> single_window(int64_t predictions, int64_t length);

struct LossSums {
  double nats = 0;
  int64_t targets = 0;
  int64_t windows = 0;
  PositionLosses by_position;  // in the window; of a stream, in the document

  double loss() const { return targets == 0 ? 0.0 : nats / static_cast<double>(targets); }
  double perplexity() const;
};

// Windows through a model, as many at once as hold about 4096 predictions.
class WindowEvaluation {
 public:
  WindowEvaluation(HybridModel& model, Dtype dtype) : model_(model), dtype_(dtype) {}
  void add(std::span<const int32_t> document, const std::vector<EvaluationWindow>& windows);
  const LossSums& finish();

 private:
  void run();

  HybridModel& model_;
  Dtype dtype_;
  LossSums sums_;
  std::vector<int32_t> tokens_, targets_, starts_;
};

// Adds a document, read in chunks of `chunk` tokens. Memory is bounded by the chunk and by what
// blocks keep: the window of a windowed one, everything of one with full attention.
void add_stream(HybridModel& model, Dtype dtype, std::span<const int32_t> document, int64_t chunk,
                LossSums& sums);

}  // namespace sidewinder
