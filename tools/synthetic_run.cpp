#include "tools/synthetic_run.h"

#include "kernels/base/philox.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

Batch random_batch(const Recipe& recipe, int64_t rows) {
  const Philox random(recipe.run.seed, "synthetic");
  Batch batch;
  batch.rows = rows;
  batch.row_length = recipe.train.context;
  const int64_t tokens = rows * batch.row_length;
  const auto vocabulary = static_cast<uint64_t>(recipe.model.vocabulary);
  for (int64_t t = 0; t <= tokens; ++t) {
    const auto id = static_cast<int32_t>(random.below(static_cast<uint64_t>(t), vocabulary));
    if (t < tokens) batch.tokens.push_back(id);
    if (t > 0) batch.targets.push_back(id);
  }
  for (int64_t row = 0; row < rows; ++row) {
    batch.document_starts.push_back(static_cast<int32_t>(row * batch.row_length));
    batch.first_positions.push_back(0);
  }
  batch.num_targets = tokens;
  return batch;
}

std::vector<Parameter*> parameters_of(HybridModel& model) {
  std::vector<Parameter*> parameters;
  model.visit([&](Parameter& parameter) { parameters.push_back(&parameter); });
  return parameters;
}

}  // namespace

SyntheticRun::SyntheticRun(const Recipe& recipe)
    : dtype_(dtype_of(recipe.train.precision)),
      model_(make_model(recipe)),
      optimizer_(std::make_unique<Optimizer>(parameters_of(*model_), recipe.optimizer)) {
  const int64_t slots = recipe.train.tokens_per_micro_batch;
  rows_ = slots == 0 ? 1 : slots / recipe.train.context;
  micro_batches_ = recipe.train.tokens_per_step / (rows_ * recipe.train.context);
  const Batch batch = random_batch(recipe, rows_);
  layouts_ = layouts_of(batch, recipe.data);
  tokens_ = Tensor::from<int32_t>({batch.num_targets}, batch.tokens);
  targets_ = Tensor::from<int32_t>({batch.num_targets}, batch.targets);
  loss_options_ = {.scale = 1.0 / static_cast<double>(tokens_per_step()),
                   .z_loss = recipe.train.z_loss,
                   .recompute = recipe.train.recompute == RecomputeKind::block};
}

double SyntheticRun::micro_batch() {
  Tape tape;
  const LossOut out = model_->loss(&tape, dtype_, layouts_, tokens_, targets_, loss_options_);
  tape.backward(out.loss);
  return out.loss.value().at(0);
}

void SyntheticRun::update(int64_t number) {
  optimizer_->step(1e-4, optimizer_->gradient_norm(), number);
}

double SyntheticRun::step(int64_t number) {
  zero_gradients();
  double loss = 0;
  for (int64_t i = 0; i < micro_batches_; ++i) loss += micro_batch();
  update(number);
  return loss;
}

double SyntheticRun::training_flops() const {
  return model_->training_flops(layouts_.attention, targets_.count()) *
         static_cast<double>(micro_batches_);
}

}  // namespace sidewinder
