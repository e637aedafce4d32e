#include "tools/commands/bench_recipe.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>

#include "kernels/base/check.h"
#include "kernels/base/text.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/peak.h"
#include "kernels/ops/profile.h"
#include "kernels/tensor/allocator.h"
#include "tools/assemble.h"
#include "tools/synthetic_run.h"

namespace sidewinder {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Of all threads: beside other programs, less uncertain than the time that passed.
double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

}  // namespace

ExitCode bench_recipe(const BenchRecipeCommand& command) {
  const Recipe recipe = load_recipe(command.recipe, command.sets);
  const Dtype dtype = dtype_of(recipe.train.precision);
  SyntheticRun run(recipe);
  double loss = run.step(1);
  const double start_loss = loss;
  SIDEWINDER_REQUIRE(std::abs(loss - std::log(static_cast<double>(recipe.model.vocabulary))) < 2.0,
                     "the first loss is {:.3f} but should be near ln(vocabulary) = {:.3f}; run "
                     "`sidewinder selftest`",
                     loss, std::log(static_cast<double>(recipe.model.vocabulary)));
  allocator_of({}).reset_peak();
  set_profiling(command.profile);
  std::vector<double> seconds;
  std::vector<double> processor;
  double peak = 0;
  for (int64_t i = 0; i < command.steps; ++i) {
    peak = std::max(peak, measure_peak_flops(dtype, ThreadPool::global().num_threads()));
    const Clock::time_point begin = Clock::now();
    const double used = processor_seconds();
    loss = run.step(2 + i);
    seconds.push_back(seconds_since(begin));
    processor.push_back(processor_seconds() - used);
  }
  const std::vector<OperationTime> operations = operation_times();
  set_profiling(false);
  std::sort(seconds.begin(), seconds.end());
  std::sort(processor.begin(), processor.end());
  const double median = seconds[seconds.size() / 2];
  const double best = seconds.front();
  const int64_t step_tokens = run.tokens_per_step();
  const double flops = run.training_flops();
  const MemoryStatistics memory = allocator_of({}).statistics();

  fmt::print("recipe       {} ({:.2f} M parameters, {}, {} kernels, {} threads)\n", command.recipe,
             static_cast<double>(run.model().num_parameters()) * 1e-6, name_of(dtype),
             name_of(active_isa()), ThreadPool::global().num_threads());
  fmt::print("step         {} tokens in {} micro-batches of {} x {}; loss {:.3f} to {:.3f}\n",
             step_tokens, run.micro_batches(), run.rows_per_micro_batch(), recipe.train.context,
             start_loss, loss);
  fmt::print(
      "FLOPs        {:.1f} M per token: 6 x matrix elements (head included) + 12 x head widths x "
      "visible pairs\n",
      flops / static_cast<double>(step_tokens) * 1e-6);
  fmt::print("peak         {:.0f} GFLOP/s, registers only, best of {} bursts between the steps\n",
             peak * 1e-9, command.steps);
  fmt::print("median       {:.3f} s, {:.0f} tokens/s, MFU {:.1f} %\n", median,
             static_cast<double>(step_tokens) / median, 100 * flops / median / peak);
  fmt::print("best         {:.3f} s, {:.0f} tokens/s, MFU {:.1f} %\n", best,
             static_cast<double>(step_tokens) / best, 100 * flops / best / peak);
  fmt::print("memory       {} high-water mark of tensors, {} taken from the system\n",
             bytes_text(static_cast<uint64_t>(memory.bytes_peak)),
             bytes_text(static_cast<uint64_t>(memory.bytes_reserved)));
  if (command.profile) {
    double total = 0;
    for (const double one : seconds) total += one;
    double covered = 0;
    double executed = 0;
    // Idle: the part of the threads' time in the operation in which they had no work.
    const int threads = ThreadPool::global().num_threads();
    fmt::print("\n{:<28} {:>8} {:>12} {:>8} {:>8} {:>8}\n", "operation", "calls", "ms per step",
               "share", "of peak", "idle");
    for (const OperationTime& operation : operations) {
      covered += operation.seconds;
      executed += operation.flops;
      fmt::print("{:<28} {:>8} {:>12.3f} {:>7.1f}% {:>7.1f}% {:>7.1f}%\n", operation.name,
                 operation.calls / command.steps,
                 1e3 * operation.seconds / static_cast<double>(command.steps),
                 100 * operation.seconds / total, 100 * operation.flops / operation.seconds / peak,
                 100 * (1 - operation.busy_seconds / operation.seconds / threads));
    }
    fmt::print("{:<28} {:>8} {:>12.3f} {:>7.1f}%\n", "outside operations", "",
               1e3 * (total - covered) / static_cast<double>(command.steps),
               100 * (total - covered) / total);
    // Recomputation counts here, and scans and convolutions do.
    executed /= static_cast<double>(command.steps);
    fmt::print("executed     {:.1f} M FLOPs per token, {:.2f} times those above\n",
               executed / static_cast<double>(step_tokens) * 1e-6, executed / flops);
  }
  if (!command.json_path.empty()) {
    nlohmann::json json = {{"recipe", command.recipe},
                           {"tokens_per_step", step_tokens},
                           {"flops_per_token", flops / static_cast<double>(step_tokens)},
                           {"peak_flops", peak},
                           {"median_seconds", median},
                           {"best_seconds", best},
                           {"processor_seconds", processor[processor.size() / 2]},
                           {"tokens_per_second", static_cast<double>(step_tokens) / median},
                           {"mfu", flops / median / peak},
                           {"best_mfu", flops / best / peak},
                           {"peak_memory_bytes", memory.bytes_peak}};
    for (const OperationTime& operation : operations) {
      json["operations"][operation.name] = operation.seconds / static_cast<double>(command.steps);
    }
    write_text_file(command.json_path, json.dump(2));
  }
  return ExitCode::success;
}

}  // namespace sidewinder
