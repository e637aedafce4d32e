#pragma once
// Training steps of a recipe on random tokens, without data or checkpoints: what `bench` times and
// what `plan` goes through in a dry run. A step is that of trainer/trainer.cpp.

#include <memory>

#include "model/model.h"
#include "recipes/recipe.h"
#include "trainer/optimizer.h"
#include "trainer/trainer.h"

namespace sidewinder {

class SyntheticRun {
 public:
  // Every row is one document, as long documents make them.
  explicit SyntheticRun(const Recipe& recipe);

  // The parts of a step, in this order.
  void zero_gradients() { optimizer_->zero_gradients(); }
  double micro_batch();  // its share of the loss
  void update(int64_t number);

  double step(int64_t number);  // all of them; the loss

  HybridModel& model() { return *model_; }
  int64_t micro_batches() const { return micro_batches_; }
  int64_t rows_per_micro_batch() const { return rows_; }
  int64_t tokens_per_step() const { return targets_.count() * micro_batches_; }
  // See HybridModel::training_flops; of a step.
  double training_flops() const;

 private:
  Dtype dtype_;
  std::unique_ptr<HybridModel> model_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t rows_, micro_batches_;
  Layouts layouts_;
  Tensor tokens_, targets_;
  HybridModel::LossOptions loss_options_;
};

}  // namespace sidewinder
