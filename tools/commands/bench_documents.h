#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct BenchDocumentsCommand {
  std::string recipe;
  std::vector<std::string> sets = {};
  int64_t steps = 5;   // of each kind, each timed kTries times
  bool check = false;  // exit code 1 if documents cost more than they may
  std::string json_path = {};
};

// What the lengths of documents do to the time of a step: rows of many short documents against rows
// of one, and how much steps with documents of any length differ. A step counts by the best of
// several tries on the same documents, so that neighbours on the machine do not.
ExitCode bench_documents(const BenchDocumentsCommand& command);

}  // namespace sidewinder
