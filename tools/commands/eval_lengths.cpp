#include "tools/commands/eval_lengths.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>

#include "data/corpus.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/base/text.h"
#include "kernels/tensor/allocator.h"
#include "model/cost.h"
#include "tools/commands/eval_input.h"
#include "tools/commands/generate.h"
#include "tools/commands/plot.h"
#include "tools/commands/table.h"
#include "tools/commands/task_spec.h"
#include "tools/memory_plan.h"
#include "trainer/perplexity.h"

namespace sidewinder {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using DocumentVisitor = std::function<void(std::span<const int32_t>)>;

// The documents to evaluate, one after the other, so that a corpus need not fit into memory.
class Documents {
 public:
  Documents(const EvalLengthsCommand& command, const TrainedModel& trained) : command_(command) {
    if (!command.text.empty()) {
      text_tokens_ = read_document(command.text, trained).tokens;
      return;
    }
    corpus_ = std::make_unique<Corpus>(command.data);
    require_ids_of_model(trained, command.data, corpus_->index().tokenizer_digest,
                         corpus_->vocabulary());
  }

  std::string name() const { return corpus_ ? corpus_->part_folder() : command_.text; }

  // Every document, joined to one with --join, cut where max_tokens are reached.
  void visit(const DocumentVisitor& visitor) {
    int64_t left = command_.max_tokens == 0 ? INT64_MAX : command_.max_tokens;
    if (!corpus_) {
      const auto used = std::min<int64_t>(left, static_cast<int64_t>(text_tokens_.size()));
      return visitor({text_tokens_.data(), static_cast<size_t>(used)});
    }
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < corpus_->documents() && left > 0; ++i) {
      const int64_t length = std::min(left, corpus_->document_length(i));
      const size_t begin = command_.join ? tokens.size() : 0;
      tokens.resize(begin + static_cast<size_t>(length));
      corpus_->read(i, 0, std::span(tokens).subspan(begin));
      left -= length;
      if (!command_.join) visitor(tokens);
    }
    if (command_.join) visitor(tokens);
  }

 private:
  const EvalLengthsCommand& command_;
  std::unique_ptr<Corpus> corpus_;
  std::vector<int32_t> text_tokens_;
};

json json_of(const LossSums& sums) {
  return {{"targets", sums.targets},
          {"windows", sums.windows},
          {"loss", sums.loss()},
          {"perplexity", sums.perplexity()},
          {"by_position", by_position_json(sums.by_position)}};
}

json evaluate_length(TrainedModel& trained, Documents& documents, const EvalLengthsCommand& command,
                     int64_t length) {
  const int64_t stride = command.stride == 0 ? length : std::min(command.stride, length);
  WindowEvaluation evaluation(*trained.model, dtype_of(trained.recipe.train.precision));
  documents.visit([&](std::span<const int32_t> document) {
    const auto predictions = std::max<int64_t>(0, static_cast<int64_t>(document.size()) - 1);
    evaluation.add(document, command.single_window ? single_window(predictions, length)
                                                   : strided_windows(predictions, length, stride));
  });
  const LossSums& sums = evaluation.finish();
  SIDEWINDER_REQUIRE(
      sums.targets > 0,
      "no document has {} predictions; with --single-window every length needs one as "
      "long (--join makes one of all documents)",
      length);
  json result = json_of(sums);
  result["convention"] = command.single_window ? "single window" : "strided";
  result["length"] = length;
  if (!command.single_window) result["stride"] = stride;
  return result;
}

void warn_of_full_attention(const TrainedModel& trained) {
  int64_t bytes = 0;
  for (const PartCost& part : cost_of(trained.recipe.model).parts) {
    if (part.pattern.window == 0) bytes += part.cache_elements;
  }
  if (bytes == 0) return;
  bytes *= static_cast<int64_t>(size_of(dtype_of(trained.recipe.train.precision)));
  log_info(
      "the model has full attention: its cache grows by {} per 1000 tokens, and the time per "
      "token with the position",
      bytes_text(static_cast<uint64_t>(1000 * bytes)));
}

json evaluate_stream(TrainedModel& trained, Documents& documents,
                     const EvalLengthsCommand& command) {
  warn_of_full_attention(trained);
  LossSums sums;
  const Dtype dtype = dtype_of(trained.recipe.train.precision);
  allocator_of({}).reset_peak();
  const Clock::time_point begin = Clock::now();
  documents.visit([&](std::span<const int32_t> document) {
    if (document.size() >= 2) add_stream(*trained.model, dtype, document, command.chunk, sums);
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  SIDEWINDER_REQUIRE(sums.targets > 0, "no document has two tokens; there is nothing to predict");
  json result = json_of(sums);
  result["chunk"] = command.chunk;
  result["tokens_per_second"] = static_cast<double>(sums.targets) / seconds;
  result["peak_memory_bytes"] = allocator_of({}).statistics().bytes_peak;
  return result;
}

// Loss by position, a column per evaluation.
void print_positions(const json& result) {
  std::vector<json> columns;
  TableRow heading = {"from", "to"};
  for (const json& one : result["by_length"]) {
    heading.push_back(std::to_string(one["length"].get<int64_t>()));
    columns.push_back(one["by_position"]);
  }
  if (result.contains("stream")) {
    heading.emplace_back("stream");
    columns.push_back(result["stream"]["by_position"]);
  }
  std::map<int64_t, TableRow> rows;
  for (size_t c = 0; c < columns.size(); ++c) {
    for (const json& bucket : columns[c]) {
      TableRow& row = rows[bucket["first"].get<int64_t>()];
      if (row.empty()) {
        row = {std::to_string(bucket["first"].get<int64_t>()),
               std::to_string(bucket["last"].get<int64_t>())};
      }
      row.resize(c + 2);
      row.push_back(fmt::format("{:.4f}", bucket["loss"].get<double>()));
    }
  }
  std::vector<TableRow> table = {heading};
  for (auto& [first, row] : rows) table.push_back(row);
  fmt::print("\nloss by position of the token that predicts, {}\n{}",
             result.contains("stream") && columns.size() == 1 ? "in the document"
                                                              : "in the window (stream: document)",
             table_text(table, std::string(columns.size() + 2, 'r')));
}

}  // namespace

ExitCode eval_lengths(const EvalLengthsCommand& command) {
  SIDEWINDER_REQUIRE(command.data.empty() != command.text.empty(),
                     "name one of --data FOLDER (token shards) and --text FILE");
  check_report(command.report_path);
  std::vector<int64_t> lengths;
  if (!command.lengths.empty()) lengths = parse_lengths(command.lengths, "--lengths");
  SIDEWINDER_REQUIRE(!lengths.empty() || command.stream,
                     "give --lengths, as in 512,1024, or --stream, or both");
  SIDEWINDER_REQUIRE(!command.single_window || command.stride == 0,
                     "--single-window evaluates one window per document; it goes without --stride");
  TrainedModel trained = load_trained_model(
      command.model, {precision_named(command.precision), command.tokenizer, command.sets});
  Documents documents(command, trained);
  json result = {{"model", command.model},
                 {"step", trained.step},
                 {"data", documents.name()},
                 {"trained_context", trained.recipe.train.context}};
  int64_t count = 0;
  int64_t tokens = 0;
  int64_t longest = 0;
  documents.visit([&](std::span<const int32_t> document) {
    const auto length = static_cast<int64_t>(document.size());
    ++count;
    tokens += length;
    longest = std::max(longest, length);
  });
  if (!lengths.empty()) {
    const int64_t most = *std::max_element(lengths.begin(), lengths.end());
    require_memory_to_evaluate(trained.recipe, std::min(most, longest), "--lengths");
  }
  if (command.stream) {
    require_memory_to_evaluate(trained.recipe, std::min(command.chunk, longest), "--chunk");
  }
  result["documents"] = count;
  result["tokens"] = tokens;
  fmt::print("model        {} (step {}, trained at context {})\n", command.model, trained.step,
             trained.recipe.train.context);
  fmt::print("data         {}: {} tokens in {} document{}\n", result["data"].get<std::string>(),
             count_text(tokens), count_text(count), count == 1 ? "" : "s");
  fmt::print("convention   {}; means are over predictions\n\n",
             command.single_window
                 ? "single window: the first n predictions of every document with as many"
             : command.stride > 0
                 ? fmt::format("strided: windows of n predictions every {}, each scored once",
                               command.stride)
                 : "strided with S = n: windows of n predictions that do not overlap");
  std::vector<TableRow> table = {{"context", "stride", "windows", "targets", "loss", "perplexity"}};
  const auto add_row = [&](const std::string& name, const std::string& stride, const json& one) {
    table.push_back({name, stride, count_text(one["windows"].get<int64_t>()),
                     count_text(one["targets"].get<int64_t>()),
                     fmt::format("{:.5f}", one["loss"].get<double>()),
                     fmt::format("{:.4f}", one["perplexity"].get<double>())});
  };
  result["by_length"] = json::array();
  for (const int64_t length : lengths) {
    const json one = evaluate_length(trained, documents, command, length);
    add_row(std::to_string(length),
            one.contains("stride") ? std::to_string(one["stride"].get<int64_t>()) : "-", one);
    result["by_length"].push_back(one);
  }
  if (command.stream) {
    const json one = evaluate_stream(trained, documents, command);
    add_row("stream", "-", one);
    result["stream"] = one;
  }
  fmt::print("{}", table_text(table, "rrrrrr"));
  if (command.stream) {
    fmt::print("\nstream       {:.0f} tokens/s in chunks of {}, {} at most\n",
               result["stream"]["tokens_per_second"].get<double>(), command.chunk,
               bytes_text(result["stream"]["peak_memory_bytes"].get<uint64_t>()));
  }
  print_positions(result);
  if (!command.json_path.empty()) write_text_file(command.json_path, result.dump(2));
  if (!command.report_path.empty()) write_report(command.report_path, command.model, result);
  return ExitCode::success;
}

}  // namespace sidewinder
