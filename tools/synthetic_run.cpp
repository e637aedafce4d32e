#include "tools/synthetic_run.h"

#include <cmath>

#include "kernels/base/philox.h"
#include "model/layer_pattern.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

constexpr double kMeanShortDocument = 300;

int64_t document_length(SyntheticDocuments kind, double uniform, int64_t row_length) {
  switch (kind) {
    case SyntheticDocuments::whole_rows: break;
    case SyntheticDocuments::short_ones:
      return 1 + static_cast<int64_t>(-(kMeanShortDocument - 1) * std::log(1 - uniform));
    case SyntheticDocuments::any_length:
      return static_cast<int64_t>(std::pow(static_cast<double>(row_length), uniform));
  }
  return row_length;
}

Batch rows_of_documents(SyntheticDocuments kind, uint64_t draw, int64_t rows, int64_t row_length) {
  const Philox random(draw, "synthetic.documents");
  uint64_t next = 0;
  Batch batch;
  batch.rows = rows;
  batch.row_length = row_length;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t at = 0; at < row_length;) {
      batch.document_starts.push_back(static_cast<int32_t>(row * row_length + at));
      batch.first_positions.push_back(0);
      at += document_length(kind, random.uniform(next++), row_length);
    }
  }
  return batch;
}

// Of tokens and targets, one id more than there are tokens.
std::vector<int32_t> random_ids(const Recipe& recipe, int64_t tokens) {
  const Philox random(recipe.run.seed, "synthetic");
  const auto vocabulary = static_cast<uint64_t>(recipe.model.vocabulary);
  std::vector<int32_t> ids;
  for (int64_t t = 0; t <= tokens; ++t) {
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(t), vocabulary)));
  }
  return ids;
}

std::vector<Parameter*> parameters_of(HybridModel& model) {
  std::vector<Parameter*> parameters;
  model.visit([&](Parameter& parameter) { parameters.push_back(&parameter); });
  return parameters;
}

}  // namespace

SyntheticRun::SyntheticRun(const Recipe& recipe)
    : dtype_(dtype_of(recipe.train.precision)),
      data_(recipe.data),
      model_(make_model(recipe)),
      optimizer_(std::make_unique<Optimizer>(parameters_of(*model_), recipe.optimizer)),
      lanes_(expand_layers(recipe.model)) {
  const int64_t slots = recipe.train.tokens_per_micro_batch;
  rows_ = slots == 0 ? 1 : slots / recipe.train.context;
  micro_batches_ = recipe.train.tokens_per_step / (rows_ * recipe.train.context);
  row_length_ = recipe.train.context;
  set_documents(SyntheticDocuments::whole_rows, 0);
  const int64_t tokens = rows_ * row_length_;
  const std::vector<int32_t> ids = random_ids(recipe, tokens);
  tokens_ = Tensor::from<int32_t>({tokens}, std::vector<int32_t>(ids.begin(), ids.end() - 1));
  targets_ = Tensor::from<int32_t>({tokens}, std::vector<int32_t>(ids.begin() + 1, ids.end()));
  loss_options_ = {.scale = 1.0 / static_cast<double>(tokens_per_step()),
                   .z_loss = recipe.train.z_loss,
                   .recompute = recipe.train.recompute == RecomputeKind::block,
                   .chunk = recipe.train.sequence_chunk};
}

void SyntheticRun::set_documents(SyntheticDocuments kind, uint64_t draw) {
  batch_ = rows_of_documents(kind, draw, rows_, row_length_);
  if (data_.long_documents == LongDocuments::continue_state) {
    batch_.carried.assign(static_cast<size_t>(rows_), 1);
    batch_.goes_on = batch_.carried;
    lanes_.resize(rows_ * micro_batches_);
  }
  layouts_ = layouts_of(batch_, data_);
}

double SyntheticRun::micro_batch(bool is_last) {
  loss_options_.before_update = is_last;
  if (!carries()) {
    return model_->loss_and_gradients(dtype_, layouts_, tokens_, targets_, loss_options_, {}).loss;
  }
  const LaneStates before = lanes_.before(batch_, next_row_);
  LaneStates after;
  const double loss =
      model_
          ->loss_and_gradients(dtype_, layouts_, tokens_, targets_, loss_options_,
                               {.before = before.empty() ? nullptr : &before, .after = &after})
          .loss;
  lanes_.keep(batch_, next_row_, after);
  next_row_ = (next_row_ + rows_) % (rows_ * micro_batches_);
  return loss;
}

void SyntheticRun::update(int64_t number) {
  optimizer_->step(1e-4, optimizer_->gradient_norm(), number);
}

double SyntheticRun::step(int64_t number) {
  zero_gradients();
  double loss = 0;
  for (int64_t i = 0; i < micro_batches_; ++i) loss += micro_batch(i + 1 == micro_batches_);
  update(number);
  return loss;
}

void SyntheticRun::evaluate() {
  model_->loss(nullptr, dtype_, layouts_, tokens_, targets_, loss_options_);
}

double SyntheticRun::training_flops() const {
  return model_->training_flops(layouts_.attention, targets_.count()) *
         static_cast<double>(micro_batches_);
}

}  // namespace sidewinder
