#include "trainer/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "data/corpus.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/tensor/allocator.h"
#include "model/layer_pattern.h"
#include "trainer/preemption.h"
#include "trainer/progress.h"
#include "trainer/schedule.h"

namespace sidewinder {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<Parameter*> parameters_of(HybridModel& model) {
  std::vector<Parameter*> parameters;
  model.visit([&](Parameter& parameter) { parameters.push_back(&parameter); });
  return parameters;
}

// Every sequence cut anew after each `length` tokens. Positions start anew as well, unless the pieces
// of a document keep theirs.
SequenceLayout fragments_of(const SequenceLayout& whole, int64_t length,
                            const DataOptions& options) {
  const bool keep_positions = options.long_documents == LongDocuments::continue_positions ||
                              options.long_documents == LongDocuments::continue_state;
  const int32_t* const position = whole.position.data<int32_t>();
  std::vector<int32_t> starts;
  std::vector<int32_t> first_positions;
  for (size_t i = 0; i < whole.document_starts.size(); ++i) {
    const int64_t first = whole.document_starts[i];
    const int64_t end =
        i + 1 < whole.document_starts.size() ? whole.document_starts[i + 1] : whole.tokens();
    for (int64_t start = first; start < end; start += length) {
      starts.push_back(static_cast<int32_t>(start));
      first_positions.push_back(keep_positions || start == first ? position[start] : 0);
    }
  }
  return SequenceLayout::packed(whole.rows, whole.row_length, starts, first_positions);
}

}  // namespace

Dtype dtype_of(Precision precision) {
  switch (precision) {
    case Precision::bf16: return Dtype::bf16;
    case Precision::f64: return Dtype::f64;
    case Precision::f32: break;
  }
  return Dtype::f32;
}

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
  if (!batch.carried.empty()) {
    part.carried.assign(batch.carried.begin() + begin, batch.carried.begin() + end);
    part.goes_on.assign(batch.goes_on.begin() + begin, batch.goes_on.begin() + end);
  }
  return part;
}

Layouts layouts_of(const Batch& batch, const DataOptions& options) {
  // Where documents are not isolated a row is one sequence; padding stands at its end, where it
  // disturbs nothing.
  const auto layout = [&](bool isolate) {
    if (!isolate) return SequenceLayout::unpacked(batch.rows, batch.row_length);
    const SequenceLayout packed = SequenceLayout::packed(
        batch.rows, batch.row_length, batch.document_starts, batch.first_positions);
    return batch.carried.empty() ? packed : packed.with_carried(batch.carried);
  };
  return {layout(options.isolate_attention), layout(options.isolate_state)};
}

double Evaluation::bits_per_byte() const {
  return bytes == 0 ? std::nan("")
                    : loss * static_cast<double>(targets) / (std::log(2.0) * static_cast<double>(bytes));
}

Layouts layouts_of(const Batch& batch, const DataOptions& options, const ContextPlan& context) {
  Layouts layouts = layouts_of(batch, options);
  if (context.fragment == 0) return layouts;
  layouts.attention = fragments_of(layouts.attention, context.fragment, options);
  if (context.cut_states) {
    layouts.state = fragments_of(layouts.state, context.fragment, options);
  }
  return layouts;
}

Evaluation evaluate(HybridModel& model, Dtype dtype, DocumentRows& rows, const DataOptions& data,
                    int64_t row_length, int64_t rows_per_batch,
                    const std::function<void(const Batch&, const Tensor&)>& per_token) {
  Evaluation result;
  double sum = 0;
  Lanes lanes(expand_layers(model.options()));
  for (;;) {
    const Batch batch = rows.next(rows_per_batch, row_length);
    if (batch.rows == 0) break;
    const int64_t tokens = batch.rows * batch.row_length;
    lanes.resize(batch.rows);
    const LaneStates before = lanes.before(batch, 0);
    LaneStates after;
    const bool any_goes_on =
        std::find(batch.goes_on.begin(), batch.goes_on.end(), 1) != batch.goes_on.end();
    const LossOut out = model.loss(
        nullptr, dtype, layouts_of(batch, data), Tensor::from<int32_t>({tokens}, batch.tokens),
        Tensor::from<int32_t>({tokens}, batch.targets), {.scale = 1.0},
        {.before = before.empty() ? nullptr : &before, .after = any_goes_on ? &after : nullptr});
    lanes.keep(batch, 0, after);
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
      schedule_(options.context, options.train, model.options()),
      dtype_(dtype_of(options.train.precision)),
      optimizer_(parameters_of(model), options.optimizer),
      lanes_(expand_layers(model.options())) {
  for (const ContextProblem& problem : lane_problems(options.data, model.options())) {
    fail_user("{}: {}; {}", problem.keys.front(), problem.what, problem.advice);
  }
  std::string cursor;
  if (checkpoint) {
    load(*checkpoint, &cursor);
    resumed_step_ = state_.progress.step;
  }
  options_.data.longest_row = options_.train.context;
  loader_ = std::make_unique<Loader>(
      options_.data, options_.run.seed,
      [schedule = schedule_](const Progress& at) { return schedule.at(at).rows; },
      state_.progress, Cursor{cursor});
  SIDEWINDER_REQUIRE(loader_->vocabulary() <= model.options().vocabulary,
                     "the data has ids up to {} but model.vocabulary is {}; set model.vocabulary to "
                     "at least {}",
                     loader_->vocabulary() - 1, model.options().vocabulary, loader_->vocabulary());
  if (!options_.data.validation.empty()) {
    // Now rather than after the steps before the first validation.
    const std::string digest = Corpus(options_.data.validation).index().tokenizer_digest;
    SIDEWINDER_REQUIRE(
        digest == loader_->tokenizer_digest(),
        "data.validation, {}, was made with another tokenizer than the training data "
        "(digests {} and {}); its ids mean other texts; make both with the same one "
        "(`sidewinder tokenize --tokenizer`)",
        options_.data.validation, digest, loader_->tokenizer_digest());
  }
  metrics_ = std::make_unique<MetricsWriter>(options_.run.folder, state_.progress.step);
  saver_ = std::make_unique<BackgroundSaver>(options_.run.folder, options_.checkpoint);
  // Now rather than after the steps before the first save.
  if (state_.progress.step < options_.train.steps) require_room(options_.run.folder, content());
}

Trainer::~Trainer() = default;

StepReport Trainer::step() {
  const Clock::time_point begin = Clock::now();
  const Batch batch = loader_->next();
  StepReport report;
  report.data_seconds = seconds_since(begin);
  report.step = state_.progress.step + 1;
  report.context = schedule_.at(state_.progress);
  apply(report.context, model_);
  lanes_.resize(batch.rows);
  cut_states(report.context);
  report.learning_rate =
      learning_rate_at(options_.learning_rate, state_.progress.step, options_.train.steps) *
      schedule_.learning_rate_share(state_.progress);
  report.targets = batch.num_targets;
  report.row_slots = batch.rows * batch.row_length;
  report.padding = batch.num_padding;

  optimizer_.zero_gradients();
  const int64_t rows_per_micro = schedule_.rows_at_once(batch.row_length);
  // Divided once by all targets of the step, so that neither packing nor the number of
  // micro-batches changes the weight of a token.
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, batch.num_targets));
  for (int64_t row = 0; row < batch.rows; row += rows_per_micro) {
    const Batch micro = rows_of(batch, row, std::min(row + rows_per_micro, batch.rows));
    const int64_t tokens = micro.rows * micro.row_length;
    const Layouts layouts = layouts_of(micro, options_.data, report.context);
    const LaneStates before = lanes_.before(micro, row);
    LaneStates after;
    const bool any_goes_on =
        std::find(micro.goes_on.begin(), micro.goes_on.end(), 1) != micro.goes_on.end();
    const HybridModel::StepLoss out = model_.loss_and_gradients(
        dtype_, layouts, Tensor::from<int32_t>({tokens}, micro.tokens),
        Tensor::from<int32_t>({tokens}, micro.targets),
        {.scale = scale,
         .z_loss = options_.train.z_loss,
         .recompute = options_.train.recompute == RecomputeKind::block,
         .chunk = options_.train.sequence_chunk,
         .before_update = row + micro.rows == batch.rows},
        {.before = before.empty() ? nullptr : &before, .after = any_goes_on ? &after : nullptr});
    lanes_.keep(micro, row, after);
    report.loss += out.loss;
    report.flops += model_.training_flops(layouts.attention, tokens);
    report.by_position.add(layouts.attention.position, micro.targets, out.token_loss);
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
    // What is not finite must not go on with the documents.
    state_.cut_documents += lanes_.count();
    lanes_.clear();
  }
  ++state_.progress.step;
  state_.progress.row_slots += report.row_slots;
  state_.targets += report.targets;
  report.seconds = seconds_since(begin);
  return report;
}

void Trainer::cut_states(const ContextPlan& plan) {
  if (!last_plan_ && state_.progress.step > 0) {
    last_plan_ = schedule_.at(schedule_.progress_at(state_.progress.step - 1));
  }
  const std::optional<ContextPlan> before = std::exchange(last_plan_, plan);
  if (!before || lanes_.count() == 0) return;
  for (const auto& [letter, block] : plan.blocks) {
    const auto found = before->blocks.find(letter);
    if (found == before->blocks.end()) continue;
    const bool turned_otherwise = block.rope_base != found->second.rope_base ||
                                  block.rope_factor != found->second.rope_factor;
    // Chunks would begin elsewhere. Windows just grow over the keys that there are.
    const bool cut_otherwise =
        block.window != found->second.window &&
        model_.options().blocks.at(letter).pattern == PatternKind::chunked;
    if (!turned_otherwise && !cut_otherwise) continue;
    lanes_.forget_keys(letter[0]);
    state_.cut_documents += lanes_.count();
    log_info("step {}: blocks {} start anew in {} documents under way, their {} being others",
             state_.progress.step + 1, letter, lanes_.count(),
             turned_otherwise ? "rotary positions" : "chunks");
  }
}

std::string Trainer::state_json() const {
  nlohmann::json state = {
      {"step", state_.progress.step},
      {"row_slots", state_.progress.row_slots},
      {"updates", state_.updates},
      {"targets", state_.targets},
      {"skipped", state_.skipped},
      {"skipped_in_a_row", state_.skipped_in_a_row},
      {"cut_documents", state_.cut_documents},
      {"before_stage",
       {{"drawn_tokens", state_.before_stage.drawn_tokens},
        {"trained_tokens", state_.before_stage.trained_tokens},
        {"dropped_tokens", state_.before_stage.dropped_tokens},
        {"deferred_tokens", state_.before_stage.deferred_tokens},
        {"padding", state_.before_stage.padding}}},
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

CheckpointContent Trainer::content() const {
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
  lanes_.save(content.tensors);
  return content;
}

// A failure says what was saved before: the run goes on from there.
void Trainer::saving(const std::function<void()>& save) const {
  try {
    save();
  } catch (const Error& error) {
    const int64_t step = saved_step();
    throw Error(error.exit_code(),
                fmt::format("{}; {}", error.what(),
                            step < 0 ? "no checkpoint has been saved"
                                     : fmt::format("the newest checkpoint is from step {}; start "
                                                   "the same command to continue there",
                                                   step)));
  }
}

void Trainer::save() {
  saving([this] { saver_->save_now(content()); });
}

void Trainer::save_in_background() {
  const Clock::time_point begin = Clock::now();
  saving([this] { saver_->save(content()); });
  stall_seconds_ = seconds_since(begin);
  ++summary_.saves;
  summary_.stall_seconds += *stall_seconds_;
  summary_.copy_seconds += saver_->times().copy_seconds;
}

int64_t Trainer::saved_step() const { return std::max(resumed_step_, saver_->newest_step()); }

// What the save after the step before has cost, and the newest one that has ended.
void Trainer::log_save(std::vector<Metric>& metrics) {
  if (!stall_seconds_) return;
  const SaveTimes times = saver_->times();
  metrics.push_back({"checkpoint/stall_seconds", *stall_seconds_});
  metrics.push_back({"checkpoint/copy_seconds", times.copy_seconds});
  if (times.write_seconds > 0) {
    metrics.push_back({"checkpoint/write_seconds", times.write_seconds});
  }
  stall_seconds_.reset();
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
  state_.cut_documents = state.value("cut_documents", int64_t{0});
  if (options_.data.long_documents == LongDocuments::continue_state) {
    const int64_t last_step = std::max<int64_t>(0, state_.progress.step - 1);
    lanes_.load(content.tensors, schedule_.at(schedule_.progress_at(last_step)).rows.rows);
  }
  *cursor = state.at("cursor");
  if (!state.contains("before_stage")) return;  // made before contexts could grow: all is one stage
  const nlohmann::json& before = state.at("before_stage");
  state_.before_stage.drawn_tokens = before.at("drawn_tokens");
  state_.before_stage.trained_tokens = before.at("trained_tokens");
  state_.before_stage.dropped_tokens = before.at("dropped_tokens");
  state_.before_stage.deferred_tokens = before.at("deferred_tokens");
  state_.before_stage.padding = before.at("padding");
}

DataOptions without_lanes(DataOptions data) {
  if (data.long_documents == LongDocuments::continue_state) {
    data.long_documents = LongDocuments::continue_reset;
  }
  return data;
}

Evaluation Trainer::validate_at(int64_t length, bool by_lanes) {
  const DataOptions data = by_lanes ? options_.data : without_lanes(options_.data);
  DocumentRows rows(data.validation, data, options_.train.validate_tokens);
  return evaluate(model_, dtype_, rows, data, length, schedule_.rows_at_once(length));
}

std::optional<Evaluation> Trainer::validate(int64_t old_length) {
  if (options_.data.validation.empty()) return std::nullopt;
  const ContextPlan plan = schedule_.at(state_.progress);
  apply(plan, model_);
  // As in training; where fragments cut rows, states do not go on there either.
  const bool by_lanes =
      options_.data.long_documents == LongDocuments::continue_state && plan.fragment == 0;
  last_validation_ = validate_at(plan.length, by_lanes);
  const Evaluation& result = *last_validation_;
  std::vector<Metric> metrics = {{"validation/loss", result.loss},
                                 {"validation/perplexity", std::exp(result.loss)},
                                 {"validation/targets", static_cast<double>(result.targets)},
                                 {"validation/context", static_cast<double>(plan.length)}};
  if (result.bytes > 0) metrics.push_back({"validation/bits_per_byte", result.bits_per_byte()});
  log_info("step {}: validation loss {:.4f} nats per token, perplexity {:.2f}, {:.4f} bits per byte, "
           "{} targets{}",
           state_.progress.step, result.loss, std::exp(result.loss), result.bits_per_byte(),
           result.targets,
           schedule_.is_constant() ? "" : fmt::format(", context {}", plan.length));
  std::set<int64_t> others(options_.context.validate_lengths.begin(),
                           options_.context.validate_lengths.end());
  if (old_length > 0) others.insert(old_length);
  for (const int64_t length : others) {
    const bool is_known = length == plan.length && !by_lanes;
    const double loss = is_known ? result.loss : validate_at(length, false).loss;
    metrics.push_back({fmt::format("validation/loss_at_{}", length), loss});
    log_info("step {}: validation loss at context {}: {:.4f} nats per token", state_.progress.step,
             length, loss);
  }
  metrics_->write(state_.progress.step, metrics);
  return last_validation_;
}

void Trainer::report_stage(const ContextPlan& plan) const {
  const DataCounts now = loader_->counts();
  const DataCounts& before = state_.before_stage;
  const int64_t padding = now.padding - before.padding;
  const int64_t seen =
      before.deferred_tokens + now.drawn_tokens - before.drawn_tokens + padding;
  log_info("stage {} ({}): {} slots seen = {} trained + {} padded + {} dropped + {} deferred",
           plan.stage, text_of(plan), seen, now.trained_tokens - before.trained_tokens, padding,
           now.dropped_tokens - before.dropped_tokens, now.deferred_tokens);
  if (options_.data.long_documents == LongDocuments::continue_state) {
    log_info("stage {}: {} documents under way lost states so far", plan.stage,
             now.cut_documents + state_.cut_documents);
  }
}

void Trainer::report_edge(const ContextPlan& old_plan, const ContextPlan& new_plan) {
  report_stage(old_plan);
  log_info("from step {} on stage {}: {} (before: {})", state_.progress.step + 1, new_plan.stage,
           text_of(new_plan), text_of(old_plan));
  state_.before_stage = loader_->counts();
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
  metrics.push_back({"train/context", static_cast<double>(report.context.length)});
  metrics.push_back({"train/row_length", static_cast<double>(report.context.rows.row_length)});
  for (const auto& [letter, block] : report.context.blocks) {
    if (block.window > 0) {
      metrics.push_back({"train/window/" + letter, static_cast<double>(block.window)});
    }
    if (block.rope_base > 0) metrics.push_back({"train/rope_base/" + letter, block.rope_base});
    if (block.rope_factor > 0) {
      metrics.push_back({"train/rope_factor/" + letter, block.rope_factor});
    }
  }
  const std::vector<PositionLosses::Bucket>& buckets = report.by_position.buckets();
  for (size_t i = 0; i < buckets.size() && !report.skipped; ++i) {
    if (buckets[i].targets == 0) continue;
    metrics.push_back({"train/loss_at_position/" + PositionLosses::name(i),
                       buckets[i].sum / static_cast<double>(buckets[i].targets)});
  }
  const DataCounts counts = loader_->counts();
  metrics.push_back({"data/drawn_tokens", static_cast<double>(counts.drawn_tokens)});
  metrics.push_back({"data/trained_tokens", static_cast<double>(counts.trained_tokens)});
  metrics.push_back({"data/padding", static_cast<double>(counts.padding)});
  metrics.push_back({"data/dropped_tokens", static_cast<double>(counts.dropped_tokens)});
  metrics.push_back({"data/deferred_tokens", static_cast<double>(counts.deferred_tokens)});
  if (options_.data.long_documents == LongDocuments::continue_state) {
    metrics.push_back({"data/cut_documents",
                       static_cast<double>(counts.cut_documents + state_.cut_documents)});
    metrics.push_back({"data/documents_under_way", static_cast<double>(lanes_.count())});
  }
  if (options_.peak_flops > 0) {
    metrics.push_back({"speed/mfu", report.flops / report.seconds / options_.peak_flops});
  }
  metrics.push_back({"data/wait_share", report.data_seconds / report.seconds});
  log_save(metrics);
  metrics_->write(report.step, metrics);
  progress.step(report, options_.peak_flops);

  seconds_ += report.seconds;
  data_seconds_ += report.data_seconds;
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
  summary_.wait_share = data_seconds_ / seconds_;
  summary_.mfu = options_.peak_flops > 0 ? flops_ / seconds_ / options_.peak_flops : 0;
}

ExitCode Trainer::run() {
  StopRequest stop;
  if (saves_in_background(options_.checkpoint, state_.progress.step, options_.train.steps)) {
    saver_->reserve(content());
  }
  ProgressReporter progress(state_.progress.step, options_.train.steps, options_.train.log_every);
  while (state_.progress.step < options_.train.steps) {
    const StepReport report = step();
    log(report, progress);
    saving([this] { saver_->check(); });
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
                                state_.skipped_in_a_row, saved_step()));
      }
    }
    const int64_t at = state_.progress.step;
    const bool last = at == options_.train.steps;
    // Edges belong to the step before, so that a run that is continued there does not repeat them.
    const ContextPlan next = schedule_.at(state_.progress);
    const bool edge = next.stage != report.context.stage && !last;
    if (options_.at_stage_end && (edge || last)) {
      if (const std::optional<std::string> reason = options_.at_stage_end(at, report.context)) {
        progress.finish();
        save();
        throw Error(ExitCode::numeric_stop,
                    fmt::format("stopped after step {}: {}", at, *reason));
      }
    }
    if (edge) report_edge(report.context, next);
    const bool validates =
        options_.train.validate_every > 0 && at % options_.train.validate_every == 0;
    if (!last && (validates || (edge && options_.context.validate_at_edges))) {
      validate(edge && options_.context.validate_at_edges ? report.context.length : 0);
    }
    if (last && !schedule_.is_constant()) report_stage(report.context);
    const bool due = options_.checkpoint.every_steps > 0 && at % options_.checkpoint.every_steps == 0;
    const bool stopping = stop.requested();  // read once: a signal may come between two looks
    if (stopping || last || (due && !options_.checkpoint.asynchronous)) {
      save();
    } else if (due) {
      save_in_background();
    }
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
