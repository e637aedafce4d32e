#pragma once
// Training steps of a recipe on random tokens, without data or checkpoints: what `bench` times and
// what `plan` goes through in a dry run. A step is that of trainer/trainer.cpp.

#include <memory>

#include "model/model.h"
#include "recipes/recipe.h"
#include "trainer/lanes.h"
#include "trainer/optimizer.h"
#include "trainer/trainer.h"

namespace sidewinder {

// What the rows hold.
enum class SyntheticDocuments : uint8_t {
  whole_rows,  // one document each, as long documents make them
  short_ones,  // exponential lengths of mean 300
  any_length   // from 1 to the row, evenly in the logarithm
};

// With data.long_documents = "continue_state" every row goes on with the one before.
class SyntheticRun {
 public:
  explicit SyntheticRun(const Recipe& recipe);  // whole_rows

  // Other documents from now on, drawn anew for every `draw`.
  void set_documents(SyntheticDocuments kind, uint64_t draw);

  // The parts of a step, in this order.
  void zero_gradients() { optimizer_->zero_gradients(); }
  double micro_batch(bool is_last);  // its share of the loss
  void update(int64_t number);

  double step(int64_t number);  // all of them; the loss
  void evaluate();              // the losses of a micro-batch alone

  HybridModel& model() { return *model_; }
  int64_t micro_batches() const { return micro_batches_; }
  bool carries() const { return !batch_.carried.empty(); }
  int64_t rows_per_micro_batch() const { return rows_; }
  int64_t tokens_per_step() const { return targets_.count() * micro_batches_; }
  // See HybridModel::training_flops; of a step.
  double training_flops() const;

 private:
  Dtype dtype_;
  DataOptions data_;
  std::unique_ptr<HybridModel> model_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t rows_, micro_batches_;
  int64_t row_length_;
  Batch batch_;
  Lanes lanes_;
  int64_t next_row_ = 0;  // of the step
  Layouts layouts_;
  Tensor tokens_, targets_;
  HybridModel::LossOptions loss_options_;
};

}  // namespace sidewinder
