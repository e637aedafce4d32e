#pragma once
// What an extension of the context costs and gains: losses at the contexts before and after, near
// (at positions the model knew) and far (beyond), measured before, at every stage, and at the end.
// Kept in the run folder as extension.json, so that a resumed run compares with the same start.

#include <optional>
#include <string>
#include <vector>

#include "data/options.h"
#include "model/model.h"
#include "trainer/options.h"
#include "trainer/position_losses.h"

namespace sidewinder {

// One evaluation on data.validation. Losses are nats per token.
struct ExtensionMeasurement {
  std::string when;  // "before", "untrained" (new positions, old weights) or "trained"
  int64_t step = 0;
  int64_t context = 0;  // tokens per row
  double loss = 0;
  double far_loss = 0;  // of predictions from positions ≥ from_context
  int64_t targets = 0;
  int64_t far_targets = 0;
  std::vector<PositionLosses::Bucket> buckets;
};

class ExtensionRecord {
 public:
  // Reads extension.json of `folder` if there is one.
  ExtensionRecord(const ExtendOptions& options, std::string folder);

  // Evaluates at every context and appends to the file. Error{user} if no validation document has
  // positions beyond from_context at a longer context.
  void measure(HybridModel& model, Dtype dtype, const DataOptions& data, const TrainOptions& train,
               const std::string& when, int64_t step, const std::vector<int64_t>& contexts);

  // Why a run whose latest measurements are of `step` should stop, or nothing: the loss at
  // from_context rose by more than max_regression, or the far loss at `context` is not lower by
  // min_gain than before the extension.
  std::optional<std::string> verdict(int64_t step, int64_t context) const;

  const std::vector<ExtensionMeasurement>& measurements() const { return measurements_; }
  const ExtensionMeasurement* find(const std::string& when, int64_t step, int64_t context) const;
  std::string path() const;

 private:
  void write() const;

  ExtendOptions options_;
  std::string folder_;
  std::vector<ExtensionMeasurement> measurements_;
};

}  // namespace sidewinder
