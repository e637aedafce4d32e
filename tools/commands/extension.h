#pragma once
// What `extend`, and `train` of a recipe with [extend], do around the training loop.

#include <optional>
#include <string>
#include <vector>

#include "model/model.h"
#include "recipes/recipe.h"
#include "trainer/extension.h"

namespace sidewinder {

class Extension {
 public:
  // Error{user} listing why the recipe cannot extend the model in init.from. `model` is the one to
  // be trained.
  Extension(const Recipe& recipe, HybridModel& model);

  // The model in init.from as it is, then its weights under the recipe's positions and windows.
  void measure_start();
  // Measures; returns why the run should stop, or nothing.
  std::optional<std::string> at_stage_end(int64_t step, int64_t context);
  // Error{numeric_stop} if the run was stopped after this step and the bounds still say so: a
  // scheduler that starts it again must not carry it past the gate.
  void refuse_failed(int64_t step) const;
  // The table of all measurements.
  void print() const;

 private:
  Recipe recipe_;
  HybridModel& model_;
  ExtensionRecord record_;
  std::vector<int64_t> contexts_;  // from_context, then those of the stages
};

}  // namespace sidewinder
