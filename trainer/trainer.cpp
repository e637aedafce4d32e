#include "trainer/trainer.h"

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/tensor/allocator.h"
#include "trainer/preemption.h"
#include "trainer/progress.h"
#include "trainer/schedule.h"

namespace sidewinder {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

Dtype activation_dtype(Precision precision) {
  switch (precision) {
    case Precision::bf16: return Dtype::bf16;
    case Precision::f64: return Dtype::f64;
    case Precision::f32: break;
  }
  return Dtype::f32;
}

std::vector<Parameter*> parameters_of(HybridModel& model) {
  std::vector<Parameter*> parameters;
  model.visit([&](Parameter& parameter) { parameters.push_back(&parameter); });
  return parameters;
}

// Rows [begin, end) of a batch as a batch of their own.
Batch rows_of(const Batch& batch, int64_t begin, int64_t end) {
  Batch part;
  part.rows = end - begin;
  part.row_length = batch.row_length;
  const int64_t first = begin * batch.row_length;
  const int64_t last = end * batch.row_length;
  part.tokens.assign(batch.tokens.begin() + first, batch.tokens.begin() + last);
  part.targets.assign(batch.targets.begin() + first, batch.targets.begin() + last);
  for (size_t i = 0; i < batch.document_starts.size(); ++i) {
    const int64_t start = batch.document_starts[i];
    if (start < first || start >= last) continue;
    part.document_starts.push_back(static_cast<int32_t>(start - first));
    part.first_positions.push_back(batch.first_positions.empty() ? 0 : batch.first_positions[i]);
  }
  return part;
}

}  // namespace

Layouts layouts_of(const Batch& batch, const DataOptions& options) {
  // Where documents are not isolated a row is one sequence; padding stands at its end, where it
  // disturbs nothing.
  const auto layout = [&](bool isolate) {
    return isolate ? SequenceLayout::packed(batch.rows, batch.row_length, batch.document_starts,
                                            batch.first_positions)
                   : SequenceLayout::unpacked(batch.rows, batch.row_length);
  };
  return {layout(options.isolate_attention), layout(options.isolate_state)};
}

double Evaluation::bits_per_byte() const {
  return bytes == 0 ? std::nan("")
                    : loss * static_cast<double>(targets) / (std::log(2.0) * static_cast<double>(bytes));
}

Evaluation evaluate(HybridModel& model, Dtype dtype, DocumentRows& rows, const DataOptions& data,
                    int64_t row_length, int64_t rows_per_batch,
                    const std::function<void(const Batch&, const Tensor&)>& per_token) {
  Evaluation result;
  double sum = 0;
  for (;;) {
    const Batch batch = rows.next(rows_per_batch, row_length);
    if (batch.rows == 0) break;
    const int64_t tokens = batch.rows * batch.row_length;
    const LossOut out =
        model.loss(nullptr, dtype, layouts_of(batch, data), Tensor::from<int32_t>({tokens}, batch.tokens),
                   Tensor::from<int32_t>({tokens}, batch.targets), {.scale = 1.0});
    sum += out.loss.value().at(0);
    result.targets += batch.num_targets;
    if (per_token) per_token(batch, out.token_loss);
  }
  result.loss = result.targets == 0 ? 0.0 : sum / static_cast<double>(result.targets);
  result.bytes = rows.num_bytes();
  return result;
}

Trainer::Trainer(HybridModel& model, const TrainerOptions& options,
                 const std::optional<CheckpointContent>& checkpoint)
    : model_(model),
      options_(options),
      dtype_(activation_dtype(options.train.precision)),
      optimizer_(parameters_of(model), options.optimizer),
      store_(options.run.folder) {
  std::string cursor;
  if (checkpoint) {
    load(*checkpoint, &cursor);
    saved_step_ = state_.progress.step;
  }
  loader_ = std::make_unique<Loader>(
      options_.data, options_.run.seed, [this](const Progress& at) { return plan(at); },
      state_.progress, Cursor{cursor});
  SIDEWINDER_REQUIRE(loader_->vocabulary() <= model.options().vocabulary,
                     "the data has ids up to {} but model.vocabulary is {}; set model.vocabulary to "
                     "at least {}",
                     loader_->vocabulary() - 1, model.options().vocabulary, loader_->vocabulary());
  if (checkpoint) {
    const nlohmann::json saved = nlohmann::json::parse(checkpoint->state);
    SIDEWINDER_REQUIRE(saved.at("data_digest") == loader_->data_digest(),
                       "the checkpoint was made with other data (digest {}, now {}); a resumed run "
                       "must read the same shards; to start anew use --fresh",
                       saved.at("data_digest").get<std::string>(), loader_->data_digest());
  }
  metrics_ = std::make_unique<MetricsWriter>(options_.run.folder, state_.progress.step);
}

Trainer::~Trainer() = default;

RowPlan Trainer::plan(const Progress&) const {
  return {options_.train.tokens_per_step / options_.train.context, options_.train.context};
}

StepReport Trainer::step() {
  const Clock::time_point begin = Clock::now();
  const Batch batch = loader_->next();
  StepReport report;
  report.step = state_.progress.step + 1;
  report.learning_rate =
      learning_rate_at(options_.learning_rate, state_.progress.step, options_.train.steps);
  report.targets = batch.num_targets;
  report.row_slots = batch.rows * batch.row_length;
  report.padding = batch.num_padding;

  optimizer_.zero_gradients();
  const int64_t slots = options_.train.tokens_per_micro_batch;
  const int64_t rows_per_micro = slots == 0 ? 1 : slots / batch.row_length;
  // Divided once by all targets of the step, so that neither packing nor the number of
  // micro-batches changes the weight of a token.
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, batch.num_targets));
  for (int64_t row = 0; row < batch.rows; row += rows_per_micro) {
    const Batch micro = rows_of(batch, row, std::min(row + rows_per_micro, batch.rows));
    const int64_t tokens = micro.rows * micro.row_length;
    const Layouts layouts = layouts_of(micro, options_.data);
    Tape tape;
    const LossOut out = model_.loss(
        &tape, dtype_, layouts, Tensor::from<int32_t>({tokens}, micro.tokens),
        Tensor::from<int32_t>({tokens}, micro.targets),
        {.scale = scale,
         .z_loss = options_.train.z_loss,
         .recompute = options_.train.recompute == RecomputeKind::block});
    tape.backward(out.loss);
    report.loss += out.loss.value().at(0);
    report.flops += model_.training_flops(layouts.attention, tokens);
  }
  report.gradient_norm = optimizer_.gradient_norm();

  if (std::isfinite(report.loss) && std::isfinite(report.gradient_norm)) {
    ++state_.updates;
    optimizer_.step(report.learning_rate, report.gradient_norm, state_.updates);
    state_.skipped_in_a_row = 0;
  } else {
    report.skipped = true;
    ++state_.skipped;
    ++state_.skipped_in_a_row;
  }
  ++state_.progress.step;
  state_.progress.row_slots += report.row_slots;
  state_.targets += report.targets;
  report.seconds = seconds_since(begin);
  return report;
}

std::string Trainer::state_json() const {
  nlohmann::json state = {
      {"step", state_.progress.step},
      {"row_slots", state_.progress.row_slots},
      {"updates", state_.updates},
      {"targets", state_.targets},
      {"skipped", state_.skipped},
      {"skipped_in_a_row", state_.skipped_in_a_row},
      {"seed", options_.run.seed},
      {"cursor", loader_->cursor().text},
      {"data_digest", loader_->data_digest()},
      {"tokenizer_digest", loader_->tokenizer_digest()},
      {"instruction_set", options_.instruction_set},
      {"recipe", options_.resolved_recipe},
  };
  if (!options_.origin.empty()) state["origin"] = nlohmann::json::parse(options_.origin);
  return state.dump();
}

void Trainer::save() {
  CheckpointContent content;
  content.step = state_.progress.step;
  content.state = state_json();
  const std::vector<Parameter*>& parameters = optimizer_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::string& name = parameters[i]->name();
    content.tensors.push_back({"model/" + name, parameters[i]->value()});
    content.tensors.push_back({"adamw.m/" + name, optimizer_.moments()[i].m});
    content.tensors.push_back({"adamw.v/" + name, optimizer_.moments()[i].v});
  }
  store_.save(content, options_.checkpoint);
  saved_step_ = content.step;
}

void Trainer::load(const CheckpointContent& content, std::string* cursor) {
  std::map<std::string, const Tensor*> stored;
  for (const NamedTensor& entry : content.tensors) stored[entry.name] = &entry.tensor;
  const auto restore = [&](const std::string& name, Tensor& target) {
    const auto found = stored.find(name);
    if (found == stored.end()) {
      fail_user("the checkpoint at step {} has no tensor {}; it was made by another model; use "
                "--fresh to start anew or [init] from to take what fits",
                content.step, name);
    }
    SIDEWINDER_REQUIRE(found->second->shape() == target.shape() &&
                           found->second->dtype() == target.dtype(),
                       "tensor {} is {} {} in the checkpoint at step {} but {} {} in the model; a "
                       "resumed run must keep its model",
                       name, name_of(found->second->dtype()), found->second->shape().text(),
                       content.step, name_of(target.dtype()), target.shape().text());
    target.copy_from(*found->second);
  };
  const std::vector<Parameter*>& parameters = optimizer_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::string& name = parameters[i]->name();
    restore("model/" + name, parameters[i]->mutable_value());
    restore("adamw.m/" + name, optimizer_.moments()[i].m);
    restore("adamw.v/" + name, optimizer_.moments()[i].v);
  }
  const nlohmann::json state = nlohmann::json::parse(content.state);
  const std::string instruction_set = state.at("instruction_set");
  SIDEWINDER_REQUIRE(
      instruction_set == options_.instruction_set || options_.allow_different_cpu,
      "the checkpoint was made with the {} kernels and this machine uses {}: the run would go on but "
      "not bit for bit; pass --allow-different-cpu to accept that",
      instruction_set, options_.instruction_set);
  state_.progress.step = state.at("step");
  state_.progress.row_slots = state.at("row_slots");
  state_.updates = state.at("updates");
  state_.targets = state.at("targets");
  state_.skipped = state.at("skipped");
  state_.skipped_in_a_row = state.at("skipped_in_a_row");
  *cursor = state.at("cursor");
}

std::optional<Evaluation> Trainer::validate() {
  if (options_.data.validation.empty()) return std::nullopt;
  DocumentRows rows(options_.data.validation, options_.data, options_.train.validate_tokens);
  const int64_t slots = options_.train.tokens_per_micro_batch;
  const int64_t rows_per_batch = slots == 0 ? 1 : slots / options_.train.context;
  last_validation_ =
      evaluate(model_, dtype_, rows, options_.data, options_.train.context, rows_per_batch);
  const Evaluation& result = *last_validation_;
  std::vector<Metric> metrics = {{"validation/loss", result.loss},
                                 {"validation/perplexity", std::exp(result.loss)},
                                 {"validation/targets", static_cast<double>(result.targets)}};
  if (result.bytes > 0) metrics.push_back({"validation/bits_per_byte", result.bits_per_byte()});
  metrics_->write(state_.progress.step, metrics);
  log_info("step {}: validation loss {:.4f} nats per token, perplexity {:.2f}, {:.4f} bits per byte, "
           "{} targets",
           state_.progress.step, result.loss, std::exp(result.loss), result.bits_per_byte(),
           result.targets);
  return last_validation_;
}

void Trainer::log(const StepReport& report, ProgressReporter& progress) {
  const double tokens_per_second = static_cast<double>(report.row_slots) / report.seconds;
  const MemoryStatistics memory = allocator_of({}).statistics();
  std::vector<Metric> metrics = {
      {"train/learning_rate", report.learning_rate},
      {"train/padding_share",
       static_cast<double>(report.padding) / static_cast<double>(report.row_slots)},
      {"train/skipped_steps", static_cast<double>(state_.skipped)},
      {"train/targets", static_cast<double>(state_.targets)},
      {"speed/tokens_per_second", tokens_per_second},
      {"speed/seconds_per_step", report.seconds},
      {"memory/peak_bytes", static_cast<double>(memory.bytes_peak)},
  };
  if (!report.skipped) {
    metrics.push_back({"train/loss", report.loss});
    metrics.push_back({"train/gradient_norm", report.gradient_norm});
  }
  if (options_.peak_flops > 0) {
    metrics.push_back({"speed/mfu", report.flops / report.seconds / options_.peak_flops});
  }
  metrics_->write(report.step, metrics);
  progress.step(report, options_.peak_flops);

  seconds_ += report.seconds;
  flops_ += report.flops;
  row_slots_ += report.row_slots;
  ++summary_.steps;
  if (!report.skipped) recent_losses_.push_back(report.loss);
  constexpr size_t kRecent = 20;
  if (recent_losses_.size() > kRecent) recent_losses_.erase(recent_losses_.begin());
  summary_.recent_steps = static_cast<int64_t>(recent_losses_.size());
  double sum = 0;
  for (const double loss : recent_losses_) sum += loss;
  summary_.recent_loss = sum / static_cast<double>(std::max<size_t>(1, recent_losses_.size()));
  summary_.tokens_per_second = static_cast<double>(row_slots_) / seconds_;
  summary_.mfu = options_.peak_flops > 0 ? flops_ / seconds_ / options_.peak_flops : 0;
}

ExitCode Trainer::run() {
  StopRequest stop;
  ProgressReporter progress(state_.progress.step, options_.train.steps, options_.train.log_every);
  while (state_.progress.step < options_.train.steps) {
    const StepReport report = step();
    log(report, progress);
    if (report.skipped) {
      log_warning("step {}: loss {} or gradient norm {} is not finite; no update was made ({} in a "
                  "row, {} in all)",
                  report.step, report.loss, report.gradient_norm, state_.skipped_in_a_row,
                  state_.skipped);
      if (state_.skipped_in_a_row >= options_.train.max_skipped_steps) {
        throw Error(ExitCode::numeric_stop,
                    fmt::format("{} steps in a row were not finite (train.max_skipped_steps); the "
                                "last checkpoint is from step {}; lower the learning rate or raise "
                                "its warm-up, then start again",
                                state_.skipped_in_a_row, saved_step_));
      }
    }
    const int64_t at = state_.progress.step;
    const bool last = at == options_.train.steps;
    if (options_.train.validate_every > 0 && at % options_.train.validate_every == 0 && !last) {
      validate();
    }
    const bool due = options_.checkpoint.every_steps > 0 && at % options_.checkpoint.every_steps == 0;
    const bool stopping = stop.requested();  // read once: a signal may come between two looks
    if (due || stopping || last) save();
    if (stopping && !last) {
      progress.finish();
      log_info("stopped by {} after step {}; the state is saved; start the same command to continue",
               stop.signal_name(), at);
      return ExitCode::requeue;
    }
  }
  progress.finish();
  validate();
  return ExitCode::success;
}

}  // namespace sidewinder
