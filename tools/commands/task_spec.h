#pragma once
// Tasks as written on the command line: "passkey", "niah:needles=4:queries=2".

#include <string>
#include <vector>

#include "data/tasks/task.h"

namespace sidewinder {

struct TaskSpec {
  const TaskKind* kind = nullptr;
  TaskSettings settings;
  std::string text;  // as written
};

// Error{user} naming what is unknown, the nearest name and all that there are.
TaskSpec parse_task(const std::string& text);
// Several, with commas between them; "ruler" stands for all of RULER's.
std::vector<TaskSpec> parse_tasks(const std::string& text);

// "1024,2048": whole numbers, at least 1, each once, sorted. `option` is for messages.
std::vector<int64_t> parse_lengths(const std::string& text, const std::string& option);

// A table of all tasks and their settings.
std::string task_help();

}  // namespace sidewinder
