#include "tools/memory_plan.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/text.h"
#include "kernels/tensor/dry_run.h"
#include "tools/synthetic_run.h"

namespace sidewinder {
namespace {

// The program itself, batches made ahead, work space of threads, what a checkpoint writes through.
constexpr int64_t kBesideTensors = int64_t{192} << 20;

std::optional<int64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

std::optional<int64_t> number_after(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    int64_t value = 0;
    if (word == name && file >> value) return value;
  }
  return std::nullopt;
}

// What a control group leaves, its page cache counted as free.
std::optional<int64_t> left_in_group(const std::string& folder, const char* limit_file,
                                     const char* usage_file) {
  const std::optional<int64_t> limit = number_in(folder + limit_file);
  if (!limit) return std::nullopt;
  const int64_t used = number_in(folder + usage_file).value_or(0);
  const int64_t cached = number_after(folder + "memory.stat", "inactive_file").value_or(0);
  return std::max<int64_t>(0, *limit - used + cached);
}

std::string text_of(int64_t bytes) { return bytes_text(static_cast<uint64_t>(bytes)); }

struct Change {
  std::string text;
  Recipe recipe;
};

// Ways to need less, the ones that change the least about the run first.
std::vector<Change> changes_of(const Recipe& recipe) {
  std::vector<Change> changes;
  const auto add = [&](std::string text, const std::function<void(Recipe&)>& edit) {
    changes.push_back({std::move(text), recipe});
    edit(changes.back().recipe);
  };
  const int64_t context = recipe.train.context;
  const bool several_rows = recipe.train.tokens_per_micro_batch > context;
  const bool keeps_all = recipe.train.recompute == RecomputeKind::none;
  const auto one_row = [context](Recipe& r) { r.train.tokens_per_micro_batch = context; };
  if (saves_in_background(recipe.checkpoint, 0, recipe.train.steps)) {
    add("checkpoint.asynchronous = false", [](Recipe& r) { r.checkpoint.asynchronous = false; });
  }
  const auto recompute = [](Recipe& r) { r.train.recompute = RecomputeKind::block; };
  const std::string micro_text = fmt::format("train.tokens_per_micro_batch = {}", context);
  const std::string recompute_text = "train.recompute = \"block\"";
  if (several_rows) add(micro_text, one_row);
  if (keeps_all) add(recompute_text, recompute);
  if (several_rows && keeps_all) {
    add(micro_text + " and " + recompute_text, [&](Recipe& r) { one_row(r), recompute(r); });
  }
  constexpr int64_t kChunk = 2048;
  if (recipe.train.sequence_chunk == 0 && context > kChunk) {
    add(fmt::format("train.sequence_chunk = {}{}{}", kChunk,
                    keeps_all ? "" : " and train.recompute = \"none\"",
                    several_rows ? " and " + micro_text : ""),
        [&](Recipe& r) {
          one_row(r);
          r.train.recompute = RecomputeKind::none;
          r.train.sequence_chunk = kChunk;
        });
  }
  if (recipe.train.precision == Precision::f32) {
    add("train.precision = \"bf16\"", [](Recipe& r) { r.train.precision = Precision::bf16; });
  }
  if (context % 2 == 0) {
    add(fmt::format("train.context = {}, one row per micro-batch and {}", context / 2,
                    recompute_text),
        [&](Recipe& r) {
          r.train.context = context / 2;
          r.train.tokens_per_micro_batch = r.train.context;
          r.train.sequence_chunk = 0;
          recompute(r);
        });
  }
  return changes;
}

// Micro-batches that a dry run goes through. It writes their ids and positions, as a real step
// does, so that those of longer ones would take the memory that is to be found out about.
constexpr int64_t kMostTokens = int64_t{1} << 22;

int64_t micro_batch_tokens(const TrainOptions& train) {
  return std::max(train.context, train.tokens_per_micro_batch);
}

// The same run with micro-batches of at most so many tokens: fewer rows, or one that is shorter.
Recipe with_tokens(const Recipe& recipe, int64_t tokens) {
  Recipe changed = recipe;
  TrainOptions& train = changed.train;
  train.context = std::min(train.context, tokens);
  train.tokens_per_micro_batch = tokens / train.context * train.context;
  train.tokens_per_step = recipe.train.tokens_per_step / micro_batch_tokens(recipe.train) *
                          train.tokens_per_micro_batch;
  return changed;
}

MemoryPlan dry_run_of(const Recipe& recipe) {
  MemoryPlan plan;
  const DryRun dry_run;
  SyntheticRun run(recipe);
  run.model().visit([&](const Parameter& parameter) {
    plan.parameter_bytes += static_cast<int64_t>(parameter.value().bytes());
  });
  plan.moment_bytes = 2 * plan.parameter_bytes;
  // The second micro-batch begins with the gradients and packed weights that the first one has
  // made, and is like all others; but where lanes carry states, every one has its own.
  const int64_t steps = run.carries() ? 2 : 1;
  const int64_t micro_batches =
      run.carries() ? run.micro_batches() : std::min<int64_t>(2, run.micro_batches());
  for (int64_t step = 1; step <= steps; ++step) {
    run.zero_gradients();
    for (int64_t i = 0; i < micro_batches; ++i) run.micro_batch(i + 1 == micro_batches);
    run.update(step);
  }
  plan.peak_bytes = dry_run.statistics().bytes_peak;
  plan.step_bytes = plan.peak_bytes - plan.state_bytes();
  if (saves_in_background(recipe.checkpoint, 0, recipe.train.steps)) {
    plan.copy_bytes = plan.parameter_bytes + plan.moment_bytes;
    plan.peak_bytes += plan.copy_bytes;
  }
  plan.resume_bytes = 2 * (plan.parameter_bytes + plan.moment_bytes);
  return plan;
}

}  // namespace

MemoryPlan plan_memory(const Recipe& recipe) {
  SIDEWINDER_REQUIRE(recipe.train.precision != Precision::f64,
                     "memory can be planned for f32 and bf16 only; f64 is for checks of small "
                     "models");
  const int64_t tokens = micro_batch_tokens(recipe.train);
  if (tokens <= kMostTokens) return dry_run_of(recipe);
  // What a step takes grows evenly with the tokens, once there are many.
  const Recipe fewer = with_tokens(recipe, kMostTokens / 4);
  const Recipe more = with_tokens(recipe, kMostTokens);
  MemoryPlan plan = dry_run_of(more);
  const double per_token =
      static_cast<double>(plan.step_bytes - dry_run_of(fewer).step_bytes) /
      static_cast<double>(more.train.tokens_per_micro_batch - fewer.train.tokens_per_micro_batch);
  const auto beyond = static_cast<int64_t>(
      per_token * static_cast<double>(tokens - more.train.tokens_per_micro_batch));
  plan.step_bytes += beyond;
  plan.peak_bytes += beyond;
  return plan;
}

int64_t evaluation_bytes(const Recipe& recipe, int64_t row_length) {
  constexpr int64_t kMany = int64_t{1} << 18;  // beyond, memory grows evenly with the tokens
  Recipe one_row = recipe;
  one_row.data = without_lanes(recipe.data);
  TrainOptions& train = one_row.train;
  train.context = train.tokens_per_micro_batch = train.tokens_per_step =
      std::min(row_length, kMany);
  DryRun dry_run;
  SyntheticRun run(one_row);
  dry_run.reset_peak();
  const int64_t before = dry_run.statistics().bytes_in_use;
  run.evaluate();
  const auto bytes = static_cast<double>(dry_run.statistics().bytes_peak - before);
  return static_cast<int64_t>(bytes * static_cast<double>(row_length) /
                              static_cast<double>(train.context));
}

void require_memory_to_evaluate(const Recipe& recipe, int64_t row_length,
                                const std::string& option) {
  if (recipe.train.precision == Precision::f64 || row_length == 0) return;
  // What reading the model has left in the arena can be had again.
  const MemoryStatistics arena = allocator_of({}).statistics();
  const int64_t available = available_memory() + arena.bytes_reserved - arena.bytes_in_use;
  const int64_t needed = evaluation_bytes(recipe, row_length);
  if (needed <= available) return;
  auto fits = static_cast<int64_t>(static_cast<double>(row_length) *
                                   static_cast<double>(available) / static_cast<double>(needed));
  while (fits > 1 && evaluation_bytes(recipe, fits) > available) fits /= 2;
  fail_environment(
      "a row of {} tokens takes {} to evaluate, but {} are available; use {} {} or less",
      row_length, text_of(needed), text_of(available), option, fits);
}

int64_t available_memory() {
  int64_t available = std::numeric_limits<int64_t>::max();
  if (const auto kib = number_after("/proc/meminfo", "MemAvailable:")) available = *kib * 1024;
  // Version 2 of control groups, then version 1. In a container, its own group is at the root.
  for (const auto& left : {left_in_group("/sys/fs/cgroup/", "memory.max", "memory.current"),
                           left_in_group("/sys/fs/cgroup/memory/", "memory.limit_in_bytes",
                                         "memory.usage_in_bytes")}) {
    if (left) available = std::min(available, *left);
  }
  return available;
}

std::string memory_problem(const Recipe& recipe, int64_t available) {
  if (recipe.train.precision == Precision::f64) return "";
  const MemoryPlan plan = plan_memory(recipe);
  const auto fits = [available](const MemoryPlan& p) {
    return std::max(p.peak_bytes, p.resume_bytes) + kBesideTensors <= available;
  };
  if (fits(plan)) return "";
  std::string text = fmt::format(
      "this run needs {} for tensors ({} of parameters and optimizer, {} of activations, gradients "
      "and packed weights with micro-batches of {} tokens{}) and some {} beside them, but {} are "
      "available",
      text_of(plan.peak_bytes), text_of(plan.state_bytes()), text_of(plan.step_bytes),
      micro_batch_tokens(recipe.train),
      plan.copy_bytes > 0 ? fmt::format(", {} to save from", text_of(plan.copy_bytes)) : "",
      text_of(kBesideTensors), text_of(available));
  bool any_fits = false;
  for (const Change& change : changes_of(recipe)) {
    const MemoryPlan changed = plan_memory(change.recipe);
    any_fits = any_fits || fits(changed);
    text += fmt::format("\n    {}: {}{}", change.text, text_of(changed.peak_bytes),
                        fits(changed) ? ", fits" : "");
  }
  return text + (any_fits ? "\nchange one of these, or pass --allow-too-little-memory to try anyway"
                          : "\nuse a smaller model or a machine with more memory, or pass "
                            "--allow-too-little-memory to try anyway");
}

}  // namespace sidewinder
