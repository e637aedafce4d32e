#include "tools/commands/extension.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <set>

#include "kernels/base/check.h"
#include "tools/assemble.h"
#include "tools/commands/table.h"
#include "trainer/context_schedule.h"
#include "trainer/extension_problems.h"

namespace sidewinder {
namespace {

// All contexts that the run will have, and those it validates at.
std::vector<int64_t> contexts_of(const Recipe& recipe) {
  std::set<int64_t> contexts = {recipe.extend.from_context, recipe.train.context};
  for (const StageOptions& stage : recipe.context.stages) contexts.insert(stage.length);
  contexts.insert(recipe.context.validate_lengths.begin(), recipe.context.validate_lengths.end());
  return {contexts.lower_bound(recipe.extend.from_context), contexts.end()};
}

void refuse_problems(const Recipe& before, const Recipe& after) {
  const int64_t known = after.extend.from_context;
  SIDEWINDER_REQUIRE(known == before.train.context,
                     "extend.from_context is {} but {} was trained at context {}; write that",
                     known, after.init.from, before.train.context);
  const std::vector<ContextProblem> problems =
      extension_problems({before.model, known}, {after.model, after.train.context});
  if (problems.empty()) return;
  std::string text = fmt::format("this recipe does not extend {}:", after.init.from);
  for (const ContextProblem& problem : problems) {
    text +=
        fmt::format("\n    {}: {}\n        {}", problem.keys.front(), problem.what, problem.advice);
  }
  throw Error(Blame::user, text);
}

}  // namespace

Extension::Extension(const Recipe& recipe, HybridModel& model)
    : recipe_(recipe),
      model_(model),
      record_(recipe.extend, recipe.run.folder),
      contexts_(contexts_of(recipe)) {}

void Extension::measure_start() {
  const Dtype dtype = dtype_of(recipe_.train.precision);
  const TrainedModel before = load_trained_model(recipe_.init.from);
  refuse_problems(before.recipe, recipe_);
  record_.measure(*before.model, dtype, recipe_.data, recipe_.train, "before", 0, contexts_);
  record_.measure(model_, dtype, recipe_.data, recipe_.train, "untrained", 0, contexts_);
}

std::optional<std::string> Extension::at_stage_end(int64_t step, int64_t context) {
  std::vector<int64_t> contexts = contexts_;
  if (step < recipe_.train.steps) contexts = {recipe_.extend.from_context, context};
  record_.measure(model_, dtype_of(recipe_.train.precision), recipe_.data, recipe_.train, "trained",
                  step, contexts);
  return record_.verdict(step, context);
}

void Extension::refuse_failed(int64_t step) const {
  for (const int64_t context : contexts_) {
    if (const std::optional<std::string> reason = record_.verdict(step, context)) {
      throw Error(ExitCode::numeric_stop, fmt::format("stopped after step {}: {}", step, *reason));
    }
  }
}

void Extension::print() const {
  std::vector<TableRow> rows = {
      {"", "step", "context", "loss", "far loss", "targets", "far targets"}};
  for (const ExtensionMeasurement& m : record_.measurements()) {
    rows.push_back({m.when, std::to_string(m.step), count_text(m.context),
                    fmt::format("{:.4f}", m.loss),
                    m.far_targets == 0 ? "-" : fmt::format("{:.4f}", m.far_loss),
                    count_text(m.targets), count_text(m.far_targets)});
  }
  fmt::print("\nnats per token; far: predictions from position {} on. {}\n{}",
             recipe_.extend.from_context, record_.path(), table_text(rows, "lrrrrrr"));
}

}  // namespace sidewinder
