#include "tools/commands/eval_tasks.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "data/tasks/score.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "tools/assemble.h"
#include "tools/commands/generate.h"
#include "tools/commands/plot.h"
#include "tools/commands/table.h"
#include "tools/commands/task_spec.h"
#include "trainer/progress.h"
#include "trainer/task_evaluation.h"

namespace sidewinder {
namespace {

// One line on the terminal, and a log line for every length elsewhere. What is left is estimated
// from tokens: prompts are read at about the same rate whatever their length.
class TaskProgress {
 public:
  TaskProgress(double tokens, int64_t trials_of_length)
      : tokens_(tokens), of_length_(trials_of_length) {}
  ~TaskProgress() { set_status_line(""); }

  void begin(const std::string& task, bool has_depth) {
    task_ = task;
    has_depth_ = has_depth;
    done_of_length_ = 0;
    score_ = 0;
  }

  void add(const TaskTrial& trial, int64_t depths) {
    done_ += static_cast<double>(trial.length);
    score_ += trial.score;
    ++done_of_length_;
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    const double left = seconds * (tokens_ - done_) / done_;
    const bool last = done_of_length_ == of_length_ * (has_depth_ ? depths : 1);
    if (log_is_terminal()) {
      set_status_line(fmt::format("{}  length {}{}  {:.1f} %  ETA {}", task_, trial.length,
                                  has_depth_ ? fmt::format("  depth {:.2f}", trial.depth) : "",
                                  100 * done_ / tokens_, duration_text(left)));
    } else if (last) {
      log_info("{} at length {}: {:.1f} %, {} left", task_, trial.length,
               100 * score_ / static_cast<double>(done_of_length_), duration_text(left));
    }
    if (last) {
      done_of_length_ = 0;
      score_ = 0;
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  double tokens_;
  int64_t of_length_;
  std::string task_;
  bool has_depth_ = true;
  double done_ = 0;
  int64_t done_of_length_ = 0;
  double score_ = 0;
  Clock::time_point start_ = Clock::now();
};

std::vector<double> spaced_depths(int64_t count) {
  if (count == 1) return {0.5};
  std::vector<double> depths;
  for (int64_t i = 0; i < count; ++i) {
    depths.push_back(static_cast<double>(i) / static_cast<double>(count - 1));
  }
  return depths;
}

std::string percent(double share) { return fmt::format("{:.0f}", 100 * share); }

double mean_of(const std::vector<TaskCell>& cells) {
  double sum = 0;
  for (const TaskCell& cell : cells) sum += cell.score;
  return sum / static_cast<double>(cells.size());
}

// Mean score of each length, in order of lengths.
std::vector<double> by_length(const std::vector<TaskCell>& cells, const TaskGrid& grid) {
  std::vector<double> result;
  for (const int64_t length : grid.lengths) {
    std::vector<TaskCell> row;
    std::copy_if(cells.begin(), cells.end(), std::back_inserter(row),
                 [&](const TaskCell& cell) { return cell.length == length; });
    result.push_back(mean_of(row));
  }
  return result;
}

void print_grid(const std::string& task, bool has_depth, const TaskGrid& grid,
                const std::vector<TaskCell>& cells) {
  TableRow heading = {"length"};
  if (has_depth && grid.depths.size() > 1) {
    for (const double depth : grid.depths) heading.push_back(fmt::format("{:.0f} %", 100 * depth));
  }
  heading.push_back("mean");
  std::vector<TableRow> rows = {heading};
  const std::vector<double> means = by_length(cells, grid);
  for (size_t i = 0; i < grid.lengths.size(); ++i) {
    TableRow row = {count_text(grid.lengths[i])};
    if (heading.size() > 2) {
      for (const TaskCell& cell : cells) {
        if (cell.length == grid.lengths[i]) row.push_back(percent(cell.score));
      }
    }
    row.push_back(fmt::format("{:.1f}", 100 * means[i]));
    rows.push_back(row);
  }
  fmt::print("\n{}: score in percent by length{}\n{}", task, has_depth ? " and depth" : "",
             table_text(rows, std::string(heading.size(), 'r')));
  if (has_depth) {
    const auto good = std::count_if(cells.begin(), cells.end(),
                                    [](const TaskCell& cell) { return cell.score >= 0.9; });
    fmt::print("90 % or more in {} of {} cells\n", good, cells.size());
  }
}

}  // namespace

ExitCode eval_tasks(const EvalTasksCommand& command) {
  const std::vector<TaskSpec> specs = parse_tasks(command.tasks);
  check_report(command.report_path);
  TaskGrid grid;
  if (!command.lengths.empty()) grid.lengths = parse_lengths(command.lengths, "--lengths");
  grid.depths = spaced_depths(command.depths);
  grid.trials = command.trials;

  TrainedModel trained =
      load_trained_model(command.model, {.precision = precision_named(command.precision),
                                         .tokenizer = command.tokenizer,
                                         .sets = command.sets});
  if (grid.lengths.empty()) grid.lengths = {trained.recipe.train.context};
  TaskSource source;
  source.tokenizer = &text_tokenizer(trained);
  source.vocabulary = trained.recipe.model.vocabulary;
  source.seed = command.seed;
  source.bos = command.bos;
  if (!command.haystack.empty()) source.haystack = read_haystack(command.haystack);

  std::vector<std::unique_ptr<Task>> tasks;
  std::vector<const Task*> pointers;
  double tokens = 0;
  for (const TaskSpec& spec : specs) {
    tasks.push_back(make_task(*spec.kind, spec.settings, source));
    pointers.push_back(tasks.back().get());
    const int64_t cells = tasks.back()->has_depth() ? command.depths : 1;
    for (const int64_t length : grid.lengths) {
      tokens += static_cast<double>(length * cells * grid.trials);
    }
  }
  check_tasks(pointers, grid);

  std::ofstream trials_file;
  if (!command.trials_path.empty()) {
    trials_file.open(command.trials_path, std::ios::binary | std::ios::trunc);
    if (!trials_file) fail_environment("cannot write {}; check its folder", command.trials_path);
  }
  fmt::print("model     {} (step {})\ntrials    {} of each length{}\nhaystack  {}\n", command.model,
             trained.step, grid.trials, command.depths > 1 ? " and depth" : "",
             command.haystack.empty() ? "noise" : command.haystack);
  nlohmann::json results = nlohmann::json::array();
  std::vector<double> ruler(grid.lengths.size(), 0);
  int64_t ruler_tasks = 0;
  TaskProgress progress(tokens, grid.trials);
  for (size_t i = 0; i < tasks.size(); ++i) {
    const Task& task = *tasks[i];
    progress.begin(specs[i].text, task.has_depth());
    const std::vector<TaskCell> cells = evaluate_task(
        *trained.model, dtype_of(trained.recipe.train.precision), *trained.tokenizer, task, grid,
        [&](const TaskTrial& trial) {
          progress.add(trial, command.depths);
          if (!trials_file.is_open()) return;
          const nlohmann::json line = {{"task", specs[i].text},
                                       {"length", trial.length},
                                       {"depth", trial.depth},
                                       {"sample", trial.sample},
                                       {"completion", trial.completion},
                                       {"references", trial.references},
                                       {"score", trial.score}};
          trials_file << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                      << '\n';
        });
    set_status_line("");
    print_grid(specs[i].text, task.has_depth(), grid, cells);
    nlohmann::json rows = nlohmann::json::array();
    for (const TaskCell& cell : cells) {
      nlohmann::json row = {
          {"length", cell.length}, {"trials", cell.trials}, {"score", cell.score}};
      if (task.has_depth()) row["depth"] = cell.depth;
      rows.push_back(row);
    }
    results.push_back({{"task", specs[i].text}, {"mean", mean_of(cells)}, {"cells", rows}});
    if (specs[i].kind->is_ruler) {
      ++ruler_tasks;
      const std::vector<double> means = by_length(cells, grid);
      for (size_t k = 0; k < ruler.size(); ++k) ruler[k] += 100 * means[k];
    }
  }
  nlohmann::json json = {{"model", command.model},
                         {"step", trained.step},
                         {"trials", grid.trials},
                         {"seed", command.seed},
                         {"haystack", command.haystack.empty() ? "noise" : command.haystack},
                         {"tasks", results}};
  if (ruler_tasks > 0) {
    std::vector<TableRow> rows = {{"length", "RULER"}};
    nlohmann::json lengths = nlohmann::json::array();
    for (size_t k = 0; k < ruler.size(); ++k) {
      ruler[k] /= static_cast<double>(ruler_tasks);
      rows.push_back({count_text(grid.lengths[k]), fmt::format("{:.1f}", ruler[k])});
      lengths.push_back({{"length", grid.lengths[k]}, {"score", ruler[k]}});
    }
    const LengthAverages averages = length_averages(ruler);
    const int64_t effective = effective_length(grid.lengths, ruler);
    fmt::print(
        "\nRULER: mean of {} tasks\n{}over lengths: mean {:.2f}, weights increasing {:.2f}, "
        "decreasing {:.2f}\nlongest length with {} or more: {}\n",
        ruler_tasks, table_text(rows, "rr"), averages.mean, averages.increasing,
        averages.decreasing, kRulerBar, effective == 0 ? "none" : count_text(effective));
    json["ruler"] = {{"tasks", ruler_tasks},
                     {"by_length", lengths},
                     {"mean", averages.mean},
                     {"increasing", averages.increasing},
                     {"decreasing", averages.decreasing},
                     {"effective_length", effective}};
  }
  if (!command.json_path.empty()) write_text_file(command.json_path, json.dump(2));
  if (!command.report_path.empty()) write_report(command.report_path, command.model, json);
  return ExitCode::success;
}

}  // namespace sidewinder
