#pragma once
// Retrieval tasks asked of a model: the mean score of every length and depth.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/tasks/task.h"
#include "model/model.h"

namespace sidewinder {

struct TaskGrid {
  std::vector<int64_t> lengths;  // tokens of prompt and answer together
  std::vector<double> depths;    // 0 to 1; one is enough for tasks without depth
  int64_t trials = 1;            // examples of each length and depth
};

// One example and what became of it.
struct TaskTrial {
  int64_t length = 0;
  double depth = 0;
  int64_t sample = 0;
  std::string completion;  // empty if one pass scored it
  std::vector<std::string> references;
  double score = 0;
};

struct TaskCell {
  int64_t length = 0;
  double depth = 0;  // of no meaning for tasks without depth
  int64_t trials = 0;
  double score = 0;  // 0 to 1
};

// Makes every example of the smallest length, so that what cannot be asked is an Error before any
// time is spent.
void check_tasks(const std::vector<const Task*>& tasks, const TaskGrid& grid);

// Greedy completions, or for examples with targets the share of most likely tokens that are right.
// Cells in order of lengths, then depths; one per length for tasks without depth.
std::vector<TaskCell> evaluate_task(HybridModel& model, Dtype dtype, const Tokenizer& tokenizer,
                                    const Task& task, const TaskGrid& grid,
                                    const std::function<void(const TaskTrial&)>& after_trial = {});

}  // namespace sidewinder
