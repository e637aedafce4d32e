#include "tools/commands/show_schedule.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <functional>

#include "kernels/base/check.h"
#include "tools/assemble.h"
#include "trainer/schedule.h"

namespace sidewinder {
namespace {

// The steps from which another plan holds.
std::vector<int64_t> steps_of_interest(const ContextSchedule& schedule, const Recipe& recipe) {
  std::vector<int64_t> steps;
  for (int64_t step = 0; step < recipe.train.steps;) {
    steps.push_back(step);
    step = schedule.next_change(step, recipe.train.steps);
  }
  return steps;
}

// At most `rows` of them, evenly spread, with the first and the last.
std::vector<int64_t> thinned(const std::vector<int64_t>& steps, int64_t rows) {
  const auto count = static_cast<int64_t>(steps.size());
  if (rows == 0 || count <= rows) return steps;
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < rows; ++i) {
    kept.push_back(steps[static_cast<size_t>(i * (count - 1) / std::max<int64_t>(1, rows - 1))]);
  }
  return kept;
}

}  // namespace

ExitCode show_schedule(const ShowScheduleCommand& command) {
  SIDEWINDER_REQUIRE(command.rows >= 0, "--rows is {}; use 0 for all, or a positive number",
                     command.rows);
  const Recipe recipe = load_recipe(command.recipe, command.sets);
  const ContextSchedule schedule(recipe.context, recipe.train, recipe.model);
  const std::vector<int64_t> changes = steps_of_interest(schedule, recipe);
  const std::vector<int64_t> steps = thinned(changes, command.rows);

  // One column for each thing that the schedule sets for the blocks of a letter.
  struct Column {
    std::string name;
    std::function<double(const ContextPlan&)> value;
  };
  std::vector<Column> columns;
  for (const auto& [letter, block] : schedule.at({}).blocks) {
    const auto add = [&, name = letter](const char* what, double first, auto member) {
      if (first == 0) return;
      columns.push_back({fmt::format("{} {}", what, name), [=](const ContextPlan& plan) {
                           return static_cast<double>(plan.blocks.at(name).*member);
                         }});
    };
    add("window", static_cast<double>(block.window), &BlockPlan::window);
    add("rope base", block.rope_base, &BlockPlan::rope_base);
    add("rope factor", block.rope_factor, &BlockPlan::rope_factor);
  }

  fmt::print("{:>9} {:>14} {:>6} {:>9} {:>7} {:>11} {:>9} {:>14}", "from step", "row slots",
             "stage", "context", "rows", "row length", "fragment", "learning rate");
  for (const Column& column : columns) fmt::print(" {:>14}", column.name);
  fmt::print("\n");
  nlohmann::json table = nlohmann::json::array();
  for (const int64_t step : steps) {
    const Progress progress = schedule.progress_at(step);
    const ContextPlan plan = schedule.at(progress);
    const double rate = learning_rate_at(recipe.learning_rate, step, recipe.train.steps) *
                        schedule.learning_rate_share(progress);
    fmt::print("{:>9} {:>14} {:>6} {:>9} {:>7} {:>11} {:>9} {:>14.4e}", step + 1,
               progress.row_slots, plan.stage, plan.length, plan.rows.rows, plan.rows.row_length,
               plan.fragment == 0 ? "-" : std::to_string(plan.fragment), rate);
    nlohmann::json entry = {{"step", step + 1},          {"row_slots", progress.row_slots},
                            {"stage", plan.stage},       {"context", plan.length},
                            {"rows", plan.rows.rows},    {"row_length", plan.rows.row_length},
                            {"fragment", plan.fragment}, {"learning_rate", rate}};
    for (const Column& column : columns) {
      fmt::print(" {:>14}", column.value(plan));
      entry[column.name] = column.value(plan);
    }
    fmt::print("\n");
    table.push_back(entry);
  }
  fmt::print("{} steps, {} row slots, {} {}", recipe.train.steps,
             schedule.progress_at(recipe.train.steps).row_slots, changes.size(),
             changes.size() == 1 ? "plan" : "plans");
  if (steps.size() < changes.size()) fmt::print(" ({} shown; --rows 0 shows all)", steps.size());
  fmt::print("\n");
  if (!command.json_path.empty()) write_text_file(command.json_path, table.dump(2));
  return ExitCode::success;
}

}  // namespace sidewinder
