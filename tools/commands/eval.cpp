#include "tools/commands/eval.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "kernels/base/check.h"
#include "tools/commands/eval_input.h"
#include "tools/commands/generate.h"
#include "tools/commands/ngram_baseline.h"
#include "tools/commands/plot.h"
#include "tools/memory_plan.h"

namespace sidewinder {
namespace {

using TokenVisitor = std::function<void(const Batch&, const Tensor&)>;

// Counts the very pairs that the run was trained on, by making its batches once more.
NgramCounts count_training_pairs(const Recipe& recipe, int64_t steps) {
  const ContextSchedule schedule(recipe.context, recipe.train, recipe.model);
  DataOptions data = recipe.data;
  data.longest_row = recipe.train.context;
  Loader loader(data, recipe.run.seed,
                [&](const Progress& progress) { return schedule.at(progress).rows; });
  NgramCounts counts(recipe.model.vocabulary);
  for (int64_t step = 0; step < steps; ++step) {
    const Batch batch = loader.next();
    counts.add(batch.tokens, batch.targets);
  }
  counts.finish();
  return counts;
}

struct BaselineLosses {
  double unigram = 0;
  double bigram = 0;
};

// A text as rows of `context` predictions each; every consecutive pair of tokens once.
Batch text_batch(const std::vector<int32_t>& tokens, size_t begin, int64_t context) {
  Batch batch;
  batch.rows = 1;
  batch.row_length = std::min<int64_t>(context, static_cast<int64_t>(tokens.size() - 1 - begin));
  const auto at = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
  batch.tokens.assign(at, at + batch.row_length);
  batch.targets.assign(at + 1, at + 1 + batch.row_length);
  batch.document_starts = {0};
  batch.first_positions = {0};
  batch.num_targets = batch.row_length;
  return batch;
}

EvaluatedText text_to_evaluate(const TrainedModel& trained, const EvalCommand& command) {
  EvaluatedText document = read_document(command.text, trained);
  std::vector<int32_t>& tokens = document.tokens;
  if (command.max_tokens > 0) document.bytes = 0;
  if (command.max_tokens > 0 && static_cast<int64_t>(tokens.size()) > command.max_tokens) {
    tokens.resize(static_cast<size_t>(command.max_tokens));
  }
  SIDEWINDER_REQUIRE(tokens.size() >= 2, "{}: {} tokens are to be evaluated; at least 2 are needed",
                     command.text, tokens.size());
  return document;
}

// The text in rows of `context` predictions.
Evaluation evaluate_text(const TrainedModel& trained, Dtype dtype, const EvaluatedText& document,
                         int64_t context, const TokenVisitor& per_token) {
  const std::vector<int32_t>& tokens = document.tokens;
  Evaluation result;
  result.bytes = document.bytes;
  double sum = 0;
  for (size_t begin = 0; begin + 1 < tokens.size(); begin += static_cast<size_t>(context)) {
    const Batch batch = text_batch(tokens, begin, context);
    const int64_t count = batch.row_length;
    const LossOut out =
        trained.model->loss(nullptr, dtype, layouts_of(batch, trained.recipe.data),
                            Tensor::from<int32_t>({count}, batch.tokens),
                            Tensor::from<int32_t>({count}, batch.targets), {.scale = 1.0});
    sum += out.loss.value().at(0);
    result.targets += batch.num_targets;
    per_token(batch, out.token_loss);
  }
  result.loss = sum / static_cast<double>(result.targets);
  return result;
}

Evaluation evaluate_shards(const TrainedModel& trained, Dtype dtype, DocumentRows& rows,
                           const DataOptions& data, int64_t context,
                           const TokenVisitor& per_token) {
  const int64_t rows_per_batch = std::max<int64_t>(1, 4096 / context);
  // A row that all documents do not fill would be padding.
  const int64_t row_length = std::min(context, rows.tokens());
  return evaluate(*trained.model, dtype, rows, data, row_length, rows_per_batch, per_token);
}

// Prints the model beside the n-gram models; the same as JSON.
nlohmann::json compare(const Evaluation& result, BaselineLosses baselines,
                       const NgramCounts& counts, int64_t steps) {
  baselines.unigram /= static_cast<double>(result.targets);
  baselines.bigram /= static_cast<double>(result.targets);
  fmt::print("\ncounted on the {} training pairs of the run's {} steps:\n", counts.pairs(), steps);
  fmt::print("{:<28} {:>16} {:>14}\n", "", "nats per token", "bits per byte");
  nlohmann::json compared;
  const auto row = [&](const char* name, double loss) {
    Evaluation one = result;
    one.loss = loss;
    fmt::print("{:<28} {:>16.4f} {:>14.4f}\n", name, loss, one.bits_per_byte());
    compared[name] = {{"loss", loss}, {"bits_per_byte", one.bits_per_byte()}};
  };
  row("this model", result.loss);
  row("Kneser-Ney bigram", baselines.bigram);
  row("unigram", baselines.unigram);
  fmt::print("the model {} both\n", result.loss < std::min(baselines.bigram, baselines.unigram)
                                        ? "beats"
                                        : "does NOT beat");
  return compared;
}

}  // namespace

ExitCode eval(const EvalCommand& command) {
  SIDEWINDER_REQUIRE(command.data.empty() != command.text.empty(),
                     "name one of --data FOLDER (token shards) and --text FILE");
  check_report(command.report_path);
  const TrainedModel trained = load_trained_model(
      command.model, {precision_named(command.precision), command.tokenizer, command.sets});
  const Recipe& recipe = trained.recipe;
  const Dtype dtype = dtype_of(recipe.train.precision);
  const int64_t context = command.context != 0 ? command.context : recipe.train.context;

  PositionLosses positions;
  std::optional<NgramCounts> counts;
  BaselineLosses baselines;
  const TokenVisitor per_token = [&](const Batch& batch, const Tensor& losses) {
    if (counts) {
      for (size_t t = 0; t < batch.targets.size(); ++t) {
        if (batch.targets[t] < 0) continue;
        baselines.unigram += counts->unigram_loss(batch.targets[t]);
        baselines.bigram += counts->bigram_loss(batch.tokens[t], batch.targets[t]);
      }
    }
    const SequenceLayout layout = SequenceLayout::packed(
        batch.rows, batch.row_length, batch.document_starts, batch.first_positions);
    positions.add(layout.position, batch.targets, losses);
  };
  const bool by_lanes = !command.data.empty() &&
                        recipe.data.long_documents == LongDocuments::continue_state &&
                        command.context == 0 && lane_problems(recipe.data, recipe.model).empty();
  const DataOptions data = by_lanes ? recipe.data : without_lanes(recipe.data);
  std::optional<DocumentRows> rows;
  EvaluatedText document;
  if (command.data.empty()) {
    document = text_to_evaluate(trained, command);
  } else {
    rows.emplace(command.data, data, command.max_tokens);
    require_ids_of_model(trained, command.data, rows->tokenizer_digest(), rows->vocabulary());
  }
  const int64_t longest = rows ? rows->tokens() : static_cast<int64_t>(document.tokens.size()) - 1;
  require_memory_to_evaluate(recipe, std::min(context, longest), "--context");
  if (command.baselines) counts = count_training_pairs(recipe, trained.step);
  const Evaluation result = rows ? evaluate_shards(trained, dtype, *rows, data, context, per_token)
                                 : evaluate_text(trained, dtype, document, context, per_token);

  fmt::print("model        {} (step {})\n", command.model, trained.step);
  fmt::print("data         {}\n", rows ? rows->part_folder() : command.text);
  fmt::print("context      {}{}\n", context,
             by_lanes ? ", documents going on from row to row with their states" : "");
  fmt::print("targets      {}\n", result.targets);
  fmt::print("loss         {:.5f} nats per token\n", result.loss);
  fmt::print("perplexity   {:.4f}\n", std::exp(result.loss));
  if (result.bytes > 0) fmt::print("bits/byte    {:.5f}\n", result.bits_per_byte());
  nlohmann::json compared;
  if (counts) compared = compare(result, baselines, *counts, trained.step);
  fmt::print("\n{:>10} {:>10} {:>10} {:>10}\n", "from", "to", "targets", "loss");
  const nlohmann::json by_position = by_position_json(positions);
  for (const auto& row : by_position) {
    fmt::print("{:>10} {:>10} {:>10} {:>10.4f}\n", row["first"].get<int64_t>(),
               row["last"].get<int64_t>(), row["targets"].get<int64_t>(),
               row["loss"].get<double>());
  }
  if (!command.json_path.empty() || !command.report_path.empty()) {
    nlohmann::json json = {{"model", command.model},
                           {"step", trained.step},
                           {"data", rows ? rows->part_folder() : command.text},
                           {"context", context},
                           {"targets", result.targets},
                           {"loss", result.loss},
                           {"perplexity", std::exp(result.loss)},
                           {"by_position", by_position}};
    if (result.bytes > 0) json["bits_per_byte"] = result.bits_per_byte();
    if (counts) json["baselines"] = compared;
    if (!command.json_path.empty()) write_text_file(command.json_path, json.dump(2));
    if (!command.report_path.empty()) write_report(command.report_path, command.model, json);
  }
  return ExitCode::success;
}

}  // namespace sidewinder
