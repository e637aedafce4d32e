#include "tools/commands/show_schedule.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "kernels/base/check.h"
#include "tools/assemble.h"
#include "trainer/schedule.h"

namespace sidewinder {
namespace {

// The steps at which the plan changes or the learning rate has a corner.
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

  fmt::print("{:>9} {:>14} {:>6} {:>9} {:>7} {:>11} {:>9} {:>14}", "from step", "row slots",
             "stage", "context", "rows", "row length", "fragment", "learning rate");
  for (const auto& [letter, block] : schedule.at({}).blocks)
    fmt::print(" {:>10}", "window " + letter);
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
    nlohmann::json windows = nlohmann::json::object();
    for (const auto& [letter, block] : plan.blocks) {
      fmt::print(" {:>10}", block.window);
      windows[letter] = block.window;
    }
    fmt::print("\n");
    table.push_back({{"step", step + 1},
                     {"row_slots", progress.row_slots},
                     {"stage", plan.stage},
                     {"context", plan.length},
                     {"rows", plan.rows.rows},
                     {"row_length", plan.rows.row_length},
                     {"fragment", plan.fragment},
                     {"learning_rate", rate},
                     {"windows", windows}});
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
