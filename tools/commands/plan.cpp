#include "tools/commands/plan.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <map>

#include "data/corpus.h"
#include "data/row_stream.h"
#include "kernels/base/check.h"
#include "kernels/base/text.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/peak.h"
#include "model/cost.h"
#include "tools/assemble.h"
#include "tools/commands/table.h"
#include "tools/memory_plan.h"
#include "trainer/context_schedule.h"

namespace sidewinder {
namespace {

using nlohmann::json;

const std::vector<int64_t> kLengths = {1024,   4096,   16384,   32768,  65536,
                                       131072, 262144, 1048576, 2097152};

// Lengths of the documents of one corpus, in slots (data/packer.h), and its share of the tokens.
struct CorpusLengths {
  double share = 0;
  std::map<int64_t, int64_t> documents;  // how many of each length
};

// What stands in rows: pieces of documents, or whole rows where nothing is known or documents are
// not isolated.
class PieceLengths {
 public:
  explicit PieceLengths(const Recipe& recipe)
      : policy_(recipe.data.long_documents), longest_row_(recipe.train.context) {
    double weights = 0;
    for (const CorpusOptions& options : recipe.data.train) weights += options.weight;
    for (const CorpusOptions& options : recipe.data.train) {
      if (!recipe.data.isolate_attention || !std::filesystem::exists(options.folder)) {
        corpora_.clear();
        return;
      }
      const Corpus corpus(options.folder);
      CorpusLengths lengths{options.weight / weights, {}};
      const bool last_has_slot = last_token_has_slot(recipe.data);
      for (int64_t i = 0; i < corpus.documents(); ++i) {
        ++lengths.documents[slots_of(corpus.document_length(i), last_has_slot)];
      }
      corpora_.push_back(std::move(lengths));
    }
  }

  bool known() const { return !corpora_.empty(); }

  // Visible pairs per token of rows of `row_length`, whose sequences are cut every `fragment`
  // tokens (0: they are not).
  double pairs_per_token(const AttentionPattern& pattern, int64_t row_length,
                         int64_t fragment = 0) const {
    const auto cut = [&](int64_t length) {
      if (fragment == 0) return static_cast<double>(pattern.pairs(length));
      const int64_t whole = length / fragment;
      return static_cast<double>(whole * pattern.pairs(fragment)) +
             static_cast<double>(pattern.pairs(length % fragment));
    };
    if (!known()) return cut(row_length) / static_cast<double>(row_length);
    const bool drops = policy_ == LongDocuments::drop ||
                       (policy_ == LongDocuments::defer && row_length < longest_row_);
    double result = 0;
    double shares = 0;
    for (const CorpusLengths& corpus : corpora_) {
      double pairs = 0;
      double tokens = 0;
      for (const auto& [length, documents] : corpus.documents) {
        const auto count = static_cast<double>(documents);
        const bool is_long = length > row_length;
        if (is_long && drops) continue;
        const int64_t used = is_long && policy_ == LongDocuments::truncate ? row_length : length;
        tokens += count * static_cast<double>(used);
        if (policy_ == LongDocuments::continue_state && fragment == 0) {
          pairs += count * static_cast<double>(pattern.pairs(used));
          continue;
        }
        const int64_t whole = used / row_length;
        pairs += count * (static_cast<double>(whole) * cut(row_length) + cut(used % row_length));
      }
      if (tokens == 0) continue;
      result += corpus.share * pairs / tokens;
      shares += corpus.share;
    }
    return shares > 0 ? result / shares : cut(row_length) / static_cast<double>(row_length);
  }

  // Share of the tokens by document length: [2^(i−1), 2^i) slots in bucket i.
  std::vector<double> histogram() const {
    std::vector<double> shares;
    for (const CorpusLengths& corpus : corpora_) {
      double tokens = 0;
      for (const auto& [length, count] : corpus.documents) {
        tokens += static_cast<double>(length * count);
      }
      for (const auto& [length, count] : corpus.documents) {
        const auto bucket = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(length)));
        if (bucket >= shares.size()) shares.resize(bucket + 1);
        shares[bucket] += corpus.share * static_cast<double>(length * count) / tokens;
      }
    }
    return shares;
  }

 private:
  LongDocuments policy_;
  int64_t longest_row_;
  std::vector<CorpusLengths> corpora_;
};

// Forward FLOPs per token.
struct TokenFlops {
  double products = 0;  // of matrices
  double pairs = 0;     // of attention
  double mixing = 0;    // convolutions and scans

  double all() const { return products + pairs + mixing; }
  double of_mfu() const { return products + pairs; }
  void operator+=(const TokenFlops& other) {
    products += other.products;
    pairs += other.pairs;
    mixing += other.mixing;
  }
  void operator*=(double factor) {
    products *= factor;
    pairs *= factor;
    mixing *= factor;
  }
};

TokenFlops flops_of(const PartCost& part, double pairs_per_token) {
  return {part.token_flops, part.pair_flops * pairs_per_token, part.mixing_flops};
}

TokenFlops flops_of(const ModelCost& cost, const PieceLengths& pieces, const ContextPlan& plan) {
  TokenFlops sum;
  for (const PartCost& part : cost.parts) {
    AttentionPattern pattern = part.pattern;
    const auto planned = plan.blocks.find(part.letter);
    if (planned != plan.blocks.end() && planned->second.window > 0) {
      pattern.window = planned->second.window;
    }
    sum += flops_of(part, pieces.pairs_per_token(pattern, plan.rows.row_length, plan.fragment));
  }
  return sum;
}

// Of the whole run, whose context may grow: mean over its steps.
TokenFlops flops_of_run(const Recipe& recipe, const ModelCost& cost, const PieceLengths& pieces) {
  const ContextSchedule schedule(recipe.context, recipe.train, recipe.model);
  const int64_t steps = std::max<int64_t>(1, recipe.train.steps);
  TokenFlops mean;
  for (int64_t step = 0; step < steps;) {
    const ContextPlan plan = schedule.at(schedule.progress_at(step));
    const int64_t end = schedule.next_change(step, steps);
    TokenFlops flops = flops_of(cost, pieces, plan);
    flops *= static_cast<double>(end - step) / static_cast<double>(steps);
    mean += flops;
    step = end;
  }
  return mean;
}

std::string duration_text(double seconds) {
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 172800) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.1f} days", seconds / 86400);
}

std::string bytes_cell(int64_t bytes) { return bytes_text(static_cast<uint64_t>(bytes)); }

Recipe with_context(const Recipe& recipe, int64_t length) {
  Recipe changed = recipe;
  changed.train.context = length;
  changed.train.tokens_per_micro_batch = length;
  changed.train.tokens_per_step = 2 * length;  // the second micro-batch sets the mark
  return changed;
}

json print_parts(const ModelCost& cost, const PieceLengths& pieces, int64_t context) {
  TokenFlops total;
  for (const PartCost& part : cost.parts) {
    total += flops_of(part, pieces.pairs_per_token(part.pattern, context));
  }
  std::vector<TableRow> rows = {
      {"part", "count", "products", "attention", "conv+scan", "share", "pairs/token"}};
  json result = json::array();
  for (const PartCost& part : cost.parts) {
    const double pairs = pieces.pairs_per_token(part.pattern, context);
    const TokenFlops flops = flops_of(part, pairs);
    const auto cell = [](double value) { return value == 0 ? "-" : decimal_text(value, 4); };
    rows.push_back({part.name, std::to_string(part.count), cell(flops.products), cell(flops.pairs),
                    cell(flops.mixing), fmt::format("{:.1f} %", 100 * flops.all() / total.all()),
                    part.pair_flops > 0 ? fmt::format("{:.1f}", pairs) : ""});
    result.push_back({{"name", part.name},
                      {"count", part.count},
                      {"product_flops_per_token", flops.products},
                      {"attention_flops_per_token", flops.pairs},
                      {"mixing_flops_per_token", flops.mixing}});
    if (part.pair_flops > 0) result.back()["pairs_per_token"] = pairs;
  }
  fmt::print("FLOPs per token, forward, all layers of a kind together, context {}\n{}\n", context,
             table_text(rows, "lrrrrrr"));
  return result;
}

json json_of(const MemoryPlan& plan) {
  return {{"parameter_bytes", plan.parameter_bytes}, {"moment_bytes", plan.moment_bytes},
          {"step_bytes", plan.step_bytes},           {"peak_bytes", plan.peak_bytes},
          {"resume_bytes", plan.resume_bytes},       {"copy_bytes", plan.copy_bytes}};
}

json print_memory(const Recipe& recipe) {
  const MemoryPlan plan = plan_memory(recipe);
  const int64_t available = available_memory();
  const std::vector<TableRow> rows = {
      {"memory", "", ""},
      {"  parameters", bytes_cell(plan.parameter_bytes), ""},
      {"  optimizer", bytes_cell(plan.moment_bytes), "two moments"},
      {"  step", bytes_cell(plan.step_bytes),
       fmt::format("activations, gradients, packed weights, work space; recompute {}",
                   recipe.train.recompute == RecomputeKind::block ? "on" : "off")},
      {"  copy to save from", bytes_cell(plan.copy_bytes),
       plan.copy_bytes > 0 ? "checkpoint.asynchronous"
                           : "none: nothing is saved in the background"},
      {"  high-water mark", bytes_cell(plan.peak_bytes),
       fmt::format("{} are available here", bytes_cell(available))},
      {"  while resuming", bytes_cell(plan.resume_bytes), "the checkpoint beside what it fills"}};
  fmt::print("{}\n", table_text(rows, "lrl"));
  json result = json_of(plan);
  result["available_bytes"] = available;
  return result;
}

json print_lengths(const Recipe& recipe, const ModelCost& cost, std::span<const int64_t> lengths) {
  std::vector<TableRow> rows = {
      {"context", "FLOPs/token", "of full attn", "step memory", "high-water", "KV cache", "state"}};
  json result = json::array();
  const auto element = static_cast<int64_t>(size_of(dtype_of(recipe.train.precision)));
  for (const int64_t length : lengths) {
    const int64_t row[] = {length};
    const double flops = 3 * cost.forward_flops(row) / static_cast<double>(length);
    ModelCost full = cost;
    for (PartCost& part : full.parts) part.pattern = {};
    const double with_full = 3 * full.forward_flops(row) / static_cast<double>(length);
    const MemoryPlan plan = plan_memory(with_context(recipe, length));
    const int64_t cache = cost.cache_bytes(length, element);
    rows.push_back({std::to_string(length), decimal_text(flops, 4),
                    fmt::format("{:.1f} %", 100 * flops / with_full), bytes_cell(plan.step_bytes),
                    bytes_cell(plan.peak_bytes), bytes_cell(cache),
                    bytes_cell(cost.state_bytes())});
    json one = json_of(plan);
    one["length"] = length;
    one["training_flops_per_token"] = flops;
    one["training_flops_per_token_full_attention"] = with_full;
    one["cache_bytes"] = cache;
    one["state_bytes"] = cost.state_bytes();
    result.push_back(std::move(one));
  }
  fmt::print(
      "This model by context length: one document fills a micro-batch of one row; training FLOPs "
      "(3 x forward)\nbeside those with every window made full; memory of training; what "
      "generation carries\n{}\n",
      table_text(rows, "rrrrrrr"));
  return result;
}

// Full attention against a window against Mamba, one mixer each, at the recipe's width.
json print_wall(const Recipe& recipe, std::span<const int64_t> lengths) {
  BlockOptions attention;
  attention.mixer = MixerKind::attention;
  BlockOptions mamba;
  int64_t window = 4096;
  for (const auto& [letter, block] : recipe.model.blocks) {
    if (block.mixer == MixerKind::mamba1) mamba = block;
    if (block.mixer != MixerKind::attention) continue;
    attention = block;
    if (block.window > 0) window = block.window;
  }
  const AttentionShape shape = attention_shape(recipe.model.width, attention);
  const Mamba1Shape scan = mamba1_shape(recipe.model.width, mamba);
  AttentionPattern windowed;
  windowed.window = window;
  const auto element = static_cast<int64_t>(size_of(dtype_of(recipe.train.precision)));
  std::vector<TableRow> rows = {{"tokens", "full core", "window core", "projections", "Mamba-1",
                                 "full/Mamba-1", "KV full", "KV window", "Mamba-1 state"}};
  json result = json::array();
  for (const int64_t length : lengths) {
    const auto tokens = static_cast<double>(length);
    const double full = shape.pair_flops() * static_cast<double>(AttentionPattern{}.pairs(length));
    const double narrow = shape.pair_flops() * static_cast<double>(windowed.pairs(length));
    const double projections = tokens * shape.projection_flops();
    const double whole_scan = tokens * (scan.projection_flops() + scan.mixing_flops());
    const int64_t cache = element * shape.cache_elements();
    const int64_t state = 4 * (scan.scan_state_elements() + scan.conv_state_elements());
    rows.push_back(
        {std::to_string(length), decimal_text(full, 3) + "F", decimal_text(narrow, 3) + "F",
         decimal_text(projections, 3) + "F", decimal_text(whole_scan, 3) + "F",
         fmt::format("{:.2f}", (full + projections) / whole_scan), bytes_cell(cache * length),
         bytes_cell(cache * std::min(length, window)), bytes_cell(state)});
    result.push_back({{"length", length},
                      {"full_core_flops", full},
                      {"window_core_flops", narrow},
                      {"projection_flops", projections},
                      {"mamba1_flops", whole_scan},
                      {"full_cache_bytes", cache * length},
                      {"window_cache_bytes", cache * std::min(length, window)},
                      {"mamba1_state_bytes", state}});
  }
  fmt::print(
      "The wall: one mixer of width {} over one document, forward: full attention against a "
      "window of {} against Mamba-1\n{}\n",
      recipe.model.width, window, table_text(rows, "rrrrrrrrr"));
  return result;
}

void print_histogram(const PieceLengths& pieces) {
  if (!pieces.known()) {
    fmt::print(
        "documents    not known (no corpus yet, or rows are one sequence): every row counts as "
        "one document\n");
    return;
  }
  fmt::print("documents    share of tokens by length:");
  const std::vector<double> shares = pieces.histogram();
  for (size_t i = 0; i < shares.size(); ++i) {
    if (shares[i] < 0.0005) continue;
    fmt::print("  <{} {:.1f} %", int64_t{1} << i, 100 * shares[i]);
  }
  fmt::print("\n");
}

}  // namespace

ExitCode plan(const PlanCommand& command) {
  if (command.recipe.empty()) {
    SIDEWINDER_REQUIRE(command.sets.empty() && command.lengths.empty() && command.json_path.empty(),
                       "without a recipe there are only the tables that are usually quoted; name a "
                       "recipe, or leave "
                       "--set, --lengths and --json out");
    fmt::print("{}", plan_tables());
    return ExitCode::success;
  }
  const Recipe recipe = load_recipe(command.recipe, command.sets);
  const ModelCost cost = cost_of(recipe.model);
  const PieceLengths pieces(recipe);
  const int64_t context = recipe.train.context;
  const std::vector<int64_t>& lengths = command.lengths.empty() ? kLengths : command.lengths;

  const Dtype dtype = dtype_of(recipe.train.precision);
  const double peak = peak_flops(dtype);
  const TokenFlops flops = flops_of_run(recipe, cost, pieces);
  const double tokens =
      static_cast<double>(recipe.train.steps) * static_cast<double>(recipe.train.tokens_per_step);
  const double recomputed = recipe.train.recompute == RecomputeKind::block
                                ? flops.of_mfu() - cost.parts.back().token_flops
                                : 0;
  const double seconds = tokens * (3 * flops.of_mfu() + recomputed) / (peak * command.mfu);

  fmt::print("recipe       {}\n", command.recipe);
  fmt::print(
      "conventions  a multiply-add is 2 FLOPs; attention is causal and counts visible pairs, both "
      "products;\n             norms, rotations and activations count as none; training is 3 x "
      "forward, recompute not included\n");
  print_histogram(pieces);
  fmt::print("\n");
  json result = {{"recipe", command.recipe}, {"context", context}};
  result["parts"] = print_parts(cost, pieces, context);
  fmt::print(
      "training     {} FLOPs per token (3 x forward), of which {} count for MFU (no convolutions "
      "and scans){}\n",
      decimal_text(3 * flops.all(), 4), decimal_text(3 * flops.of_mfu(), 4),
      recomputed > 0 ? fmt::format("; recompute adds {}", decimal_text(recomputed, 4)) : "");
  fmt::print(
      "time         {} for {} tokens in {} steps, supposing {:.0f} % of the {:.0f} GFLOP/s that {} "
      "threads reach here in {} registers;\n             `sidewinder bench {}` measures it\n\n",
      duration_text(seconds), count_text(std::llround(tokens)), recipe.train.steps,
      100 * command.mfu, peak * 1e-9, ThreadPool::global().num_threads(), name_of(dtype),
      command.recipe);
  result["training_flops_per_token"] = 3 * flops.all();
  result["mfu_flops_per_token"] = 3 * flops.of_mfu();
  result["recompute_flops_per_token"] = recomputed;
  result["assumed_mfu"] = command.mfu;
  result["peak_flops"] = peak;
  result["seconds"] = seconds;
  result["memory"] = print_memory(recipe);
  result["parameters"] = result["memory"]["parameter_bytes"].get<int64_t>() / 4;
  result["by_length"] = print_lengths(recipe, cost, lengths);
  result["wall"] = print_wall(recipe, lengths);
  if (!command.json_path.empty()) write_text_file(command.json_path, result.dump(2));
  return ExitCode::success;
}

}  // namespace sidewinder
