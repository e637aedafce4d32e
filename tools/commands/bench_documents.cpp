#include "tools/commands/bench_documents.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/base/check.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "tools/assemble.h"
#include "tools/synthetic_run.h"

namespace sidewinder {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTries = 3;
constexpr double kMostForShortDocuments = 1.02;  // times the cost of a token in whole rows
constexpr double kMostForAnyLength = 1.2;        // slowest step, of the median one

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Of the documents that the run has now.
double seconds_per_step(SyntheticRun& run, int64_t& number) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kTries; ++i) {
    const Clock::time_point begin = Clock::now();
    run.step(number++);
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return best;
}

std::string verdict(double value, double most) {
  return fmt::format("{:.3f} (at most {:.2f}: {})", value, most, value <= most ? "ok" : "above");
}

}  // namespace

ExitCode bench_documents(const BenchDocumentsCommand& command) {
  const Recipe recipe = load_recipe(command.recipe, command.sets);
  SyntheticRun run(recipe);
  int64_t number = 1;
  run.step(number++);
  std::vector<double> whole;
  std::vector<double> packed;
  std::vector<double> any;
  for (int64_t i = 0; i < command.steps; ++i) {
    const auto draw = static_cast<uint64_t>(i);
    for (const auto& [kind, seconds] : {std::pair{SyntheticDocuments::whole_rows, &whole},
                                        std::pair{SyntheticDocuments::short_ones, &packed},
                                        std::pair{SyntheticDocuments::any_length, &any}}) {
      run.set_documents(kind, draw);
      seconds->push_back(seconds_per_step(run, number));
    }
  }
  const double short_ratio = median_of(packed) / median_of(whole);
  const double spread = *std::max_element(any.begin(), any.end()) / median_of(any);
  const bool good = short_ratio <= kMostForShortDocuments && spread <= kMostForAnyLength;
  const auto tokens = static_cast<double>(run.tokens_per_step());
  fmt::print("recipe           {} ({:.2f} M parameters, {}, {} kernels, {} threads)\n",
             command.recipe, static_cast<double>(run.model().num_parameters()) * 1e-6,
             name_of(dtype_of(recipe.train.precision)), name_of(active_isa()),
             ThreadPool::global().num_threads());
  fmt::print("whole rows       {:.0f} tokens/s, rows of {}\n", tokens / median_of(whole),
             recipe.train.context);
  fmt::print(
      "short documents  {:.0f} tokens/s, mean 300 tokens; time per token against whole "
      "rows: {}\n",
      tokens / median_of(packed), verdict(short_ratio, kMostForShortDocuments));
  fmt::print("any length       {:.0f} tokens/s; slowest of {} steps against the median: {}\n",
             tokens / median_of(any), command.steps, verdict(spread, kMostForAnyLength));
  if (!command.json_path.empty()) {
    const nlohmann::json json = {{"recipe", command.recipe},
                                 {"tokens_per_second", tokens / median_of(whole)},
                                 {"short_documents_ratio", short_ratio},
                                 {"slowest_over_median", spread},
                                 {"whole_rows_seconds", whole},
                                 {"short_documents_seconds", packed},
                                 {"any_length_seconds", any}};
    write_text_file(command.json_path, json.dump(2));
  }
  return command.check && !good ? ExitCode::below_bar : ExitCode::success;
}

}  // namespace sidewinder
