#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct PlanCommand {
  std::string recipe;             // empty: the published tables (plan_tables)
  std::vector<std::string> sets;  // key=value
  std::vector<int64_t> lengths;   // of the tables; empty: 1K to 2M
  double mfu = 0.5;               // assumed share of the machine's peak
  std::string json_path;
};

// What a run will cost, without running it: parameters, FLOPs per token by kind of layer with the
// documents of the recipe's corpora, memory (by dry run) and time, and how all of it grows with
// context length: the recipe, and full attention against a window against Mamba at its width.
ExitCode plan(const PlanCommand& command);

// The cost tables that are usually quoted, from model/cost.h: attention of 32 heads of 128 in 32
// layers by length, one layer of width 4096 of every kind, and a hybrid worked out in full.
std::string plan_tables();

// "8.598 G": `digits` significant digits, decimal prefix.
std::string decimal_text(double value, int digits);

}  // namespace sidewinder
