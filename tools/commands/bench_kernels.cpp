#include "tools/commands/bench_kernels.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "kernels/base/philox.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/peak.h"
#include "tools/assemble.h"
#include "tools/commands/kernel_benchmark.h"

namespace sidewinder {

Tensor benchmark_tensor(Shape shape, Dtype dtype, uint64_t seed, double deviation) {
  Tensor result = Tensor::empty(shape, Dtype::f32);
  const Philox random(seed, "bench");
  float* const values = result.data<float>();
  parallel_ranges(result.count(), 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // Sum of four uniforms, scaled: normal enough, and quicker than the exact transform.
      const auto words = random.block(static_cast<uint64_t>(i));
      double sum = 0;
      for (const uint32_t word : words) sum += word * 0x1p-32 - 0.5;
      values[i] = static_cast<float>(sum * std::sqrt(3.0) * deviation);
    }
  });
  return dtype == Dtype::f32 ? result : result.to(dtype);
}

double benchmark_error(const Tensor& actual, const Tensor& exact) {
  SIDEWINDER_ASSERT(actual.shape() == exact.shape());
  double difference = 0;
  double norm = 0;
  for (int64_t i = 0; i < exact.count(); ++i) {
    const double gap = actual.at(i) - exact.at(i);
    difference += gap * gap;
    norm += exact.at(i) * exact.at(i);
  }
  return std::sqrt(difference / norm);
}

namespace {

constexpr double kRoundSeconds = 0.15;
constexpr int kRounds = 3;
constexpr int kMostRounds = 12;  // for a kernel that is below its bar: a neighbour may be the cause
constexpr double kNever = std::numeric_limits<double>::infinity();

struct Result {
  const KernelBenchmark* benchmark = nullptr;
  double run_seconds = kNever;    // of the best run
  double other_seconds = kNever;  // of what runs in turns with the kernel
  double seconds = 0;             // that count
  double limit = 0;               // units per second
  double rate = 0;                // units per second
  double share = 0;               // of the limit
  double error = 0;
  double cores = 0;     // share of the best round in which the threads had a core
  std::string verdict;  // "ok", "below", "n/a" or "" (no bar)
};

// The machine's limits, and streams over its memory.
struct Machine {
  explicit Machine(int threads) : peak(measure_peak(threads)), memory(threads) {}

  MachinePeak peak;
  MemoryStreams memory;
};

bool is_memory(WorkUnit unit) { return unit == WorkUnit::bytes || unit == WorkUnit::bytes_read; }

std::string rate_text(const Result& result) {
  switch (result.benchmark->unit) {
    case WorkUnit::flops: return fmt::format("{:.0f} GFLOP/s", result.rate / 1e9);
    case WorkUnit::bytes:
    case WorkUnit::bytes_read: return fmt::format("{:.1f} GB/s", result.rate / 1e9);
    case WorkUnit::state_steps: break;
  }
  return fmt::format("{:.1f} G state-steps/s", result.rate / 1e9);
}

std::string bar_text(const KernelBenchmark& benchmark) {
  if (benchmark.most_times > 0) {
    return fmt::format("{:.2f} x {}", benchmark.most_times, benchmark.other);
  }
  if (benchmark.bar == 0) return "-";
  if (benchmark.unit == WorkUnit::state_steps) {
    return fmt::format("{:.1f} G/core", benchmark.bar / 1e9);
  }
  return fmt::format("{:.0f} %", 100 * benchmark.bar);
}

// What is held against the bar.
double figure(const Result& result, int threads) {
  return result.benchmark->unit == WorkUnit::state_steps ? result.rate / threads : result.share;
}

// Times the time of what it is compared with.
double times(const Result& result) { return result.run_seconds / result.other_seconds; }

bool has_bar(const KernelBenchmark& benchmark) {
  return benchmark.bar > 0 || benchmark.most_times > 0;
}

bool reaches(const Result& result, double bar, int threads) {
  const double most_times = result.benchmark->most_times;
  return figure(result, threads) >= bar && (most_times == 0 || times(result) <= most_times);
}

double seconds_of(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Keeps the least time; true if it is this one.
bool keep_best_time(const std::function<void()>& run, double& best) {
  const double begin = seconds_of(CLOCK_MONOTONIC);
  run();
  const double seconds = seconds_of(CLOCK_MONOTONIC) - begin;
  if (seconds >= best) return false;
  best = seconds;
  return true;
}

// Runs for kRoundSeconds, in turns with what it is compared with, and keeps the best of each.
void time_runs(const std::function<void()>& run, const std::function<void()>& other,
               Machine& machine, Result& result) {
  const double begin = seconds_of(CLOCK_MONOTONIC);
  const double cpu_begin = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  const WorkUnit unit = result.benchmark->unit;
  bool best = false;
  while (seconds_of(CLOCK_MONOTONIC) - begin < kRoundSeconds) {
    best = keep_best_time(run, result.run_seconds) || best;
    if (other) keep_best_time(other, result.other_seconds);
    if (is_memory(unit)) {
      const double rate = unit == WorkUnit::bytes ? machine.memory.copy() : machine.memory.read();
      double& limit =
          unit == WorkUnit::bytes ? machine.peak.copy_bandwidth : machine.peak.read_bandwidth;
      limit = std::max(limit, rate);
      result.limit = std::max(result.limit, rate);
    }
  }
  // Of the whole round: the time of a running thread is only accounted for every few milliseconds.
  const double elapsed = seconds_of(CLOCK_MONOTONIC) - begin;
  const double cpu_seconds = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin;
  if (best) result.cores = std::min(1.0, cpu_seconds / (elapsed * machine.peak.threads));
}

// Arithmetic is as fast as it ever was in this run: it may prove faster than at the start.
double refreshed_limit(const KernelBenchmark& benchmark, MachinePeak& peak) {
  if (benchmark.unit == WorkUnit::state_steps) {
    peak.exp_rate = std::max(peak.exp_rate, measure_exp_rate(peak.threads));
    return peak.exp_rate;
  }
  double& limit = benchmark.compute == Dtype::bf16 ? peak.bf16_flops : peak.f32_flops;
  limit = std::max(limit, measure_peak_flops(benchmark.compute, peak.threads));
  return limit;
}

double checked_error(const KernelBenchmark& benchmark) {
  const double error = benchmark.check();
  if (!(error <= benchmark.largest_error)) {
    throw Error(
        Blame::bug,
        fmt::format("{} in {} is wrong: its relative error against f64 is {:.1e} but must "
                    "be at most {:.1e}; please report it with the output of `sidewinder "
                    "doctor`",
                    benchmark.kernel, name_of(benchmark.compute), error, benchmark.largest_error));
  }
  return error;
}

Result measure(const KernelBenchmark& benchmark, Machine& machine, bool has_bars) {
  Result result;
  result.benchmark = &benchmark;
  result.error = checked_error(benchmark);
  const std::function<void()> run = benchmark.prepare();
  const std::function<void()> other =
      benchmark.prepare_other ? benchmark.prepare_other() : std::function<void()>();
  run();
  if (other) other();
  const int threads = machine.peak.threads;
  const double wanted = std::max(benchmark.bar, benchmark.mean_bar);
  for (int round = 0; round < kMostRounds; ++round) {
    time_runs(run, other, machine, result);
    if (!is_memory(benchmark.unit) && (round == 0 || round == kRounds)) {
      result.limit = refreshed_limit(benchmark, machine.peak);
    }
    result.seconds = result.run_seconds - (benchmark.beyond_other ? result.other_seconds : 0);
    result.rate = benchmark.work / result.seconds;
    result.share = result.rate / result.limit;
    const bool may_improve = has_bar(benchmark) && has_bars && !reaches(result, wanted, threads);
    if (round + 1 >= kRounds && !may_improve) break;
  }
  if (has_bar(benchmark)) {
    result.verdict = !has_bars ? "n/a" : reaches(result, benchmark.bar, threads) ? "ok" : "below";
  }
  return result;
}

// The mean share of the shapes of a kernel, where that has a bar.
struct Mean {
  const KernelBenchmark* benchmark = nullptr;  // of one of the shapes
  double share = 0;                            // their sum, until all are known
  int shapes = 0;
  std::string verdict;
};

std::vector<Mean> means_of(const std::vector<Result>& results, bool has_bars) {
  std::vector<Mean> means;
  for (const Result& result : results) {
    const KernelBenchmark& b = *result.benchmark;
    if (b.mean_bar == 0) continue;
    auto mean = std::find_if(means.begin(), means.end(), [&](const Mean& m) {
      return m.benchmark->kernel == b.kernel && m.benchmark->compute == b.compute;
    });
    if (mean == means.end()) {
      mean = means.emplace(means.end());
      mean->benchmark = &b;
    }
    mean->share += result.share;
    ++mean->shapes;
  }
  for (Mean& mean : means) {
    mean.share /= mean.shapes;
    mean.verdict = !has_bars ? "n/a" : mean.share >= mean.benchmark->mean_bar ? "ok" : "below";
  }
  return means;
}

std::vector<KernelBenchmark> chosen(const std::vector<std::string>& only) {
  std::vector<KernelBenchmark> all;
  for (const auto& group : {product_benchmarks(), sequence_benchmarks(), row_benchmarks()})
    all.insert(all.end(), group.begin(), group.end());
  if (only.empty()) return all;
  std::vector<KernelBenchmark> result;
  for (const KernelBenchmark& benchmark : all) {
    const bool wanted = std::any_of(only.begin(), only.end(), [&](const std::string& part) {
      return benchmark.kernel.find(part) != std::string::npos;
    });
    if (wanted) result.push_back(benchmark);
  }
  if (result.empty()) {
    std::string names;
    for (const KernelBenchmark& benchmark : all) {
      if (names.find(benchmark.kernel) != std::string::npos) continue;
      names += (names.empty() ? "" : ", ") + benchmark.kernel;
    }
    fail_user("bench: no kernel has \"{}\" in its name; there are: {}", only.front(), names);
  }
  return result;
}

void print_limits(const MachinePeak& peak) {
  fmt::print(
      "{} threads, {} kernels. Limits: f32 {:.0f} GFLOP/s, bf16 {:.0f} GFLOP/s, exp {:.1f} "
      "G/s, read {:.1f} GB/s, copy {:.1f} GB/s\n\n",
      peak.threads, name_of(active_isa()), peak.f32_flops / 1e9, peak.bf16_flops / 1e9,
      peak.exp_rate / 1e9, peak.read_bandwidth / 1e9, peak.copy_bandwidth / 1e9);
  fmt::print("{:<30} {:<23} {:<5} {:>22} {:>7} {:>19} {}\n", "kernel", "shape", "type", "rate",
             "share", "bar", "");
}

void print_result(const Result& result) {
  const KernelBenchmark& b = *result.benchmark;
  // Other work on the machine shows as threads that waited for a core.
  const std::string note =
      result.cores < 0.9 ? fmt::format(" (had {:.0f} % of its cores)", 100 * result.cores) : "";
  const std::string compared = b.most_times > 0 ? fmt::format(" ({:.2f} x)", times(result)) : "";
  fmt::print("{:<30} {:<23} {:<5} {:>22} {:>5.0f} % {:>19} {}{}{}\n", b.kernel, b.shape,
             name_of(b.compute), rate_text(result), 100 * result.share, bar_text(b), result.verdict,
             compared, note);
  std::fflush(stdout);
}

void print_mean(const Mean& mean) {
  fmt::print("{:<30} {:<23} {:<5} {:>22} {:>5.0f} % {:>17.0f} % {}\n", mean.benchmark->kernel,
             fmt::format("mean of {} shapes", mean.shapes), name_of(mean.benchmark->compute), "",
             100 * mean.share, 100 * mean.benchmark->mean_bar, mean.verdict);
}

std::string_view name_of(WorkUnit unit) {
  switch (unit) {
    case WorkUnit::flops: return "flop/s";
    case WorkUnit::bytes:
    case WorkUnit::bytes_read: return "byte/s";
    case WorkUnit::state_steps: break;
  }
  return "state-step/s";
}

void write_json(const std::string& path, const MachinePeak& peak,
                const std::vector<Result>& results, const std::vector<Mean>& all_means) {
  nlohmann::json kernels = nlohmann::json::array();
  for (const Result& result : results) {
    const KernelBenchmark& b = *result.benchmark;
    kernels.push_back({{"kernel", b.kernel},
                       {"shape", b.shape},
                       {"type", sidewinder::name_of(b.compute)},
                       {"seconds", result.seconds},
                       {"rate", result.rate},
                       {"unit", name_of(b.unit)},
                       {"limit", result.limit},
                       {"share", result.share},
                       {"share_of_cores", result.cores},
                       {"bar", b.bar},
                       {"times_other", b.most_times > 0 ? times(result) : 0},
                       {"most_times_other", b.most_times},
                       {"other", b.other},
                       {"verdict", result.verdict},
                       {"relative_error", result.error}});
  }
  nlohmann::json means = nlohmann::json::array();
  for (const Mean& mean : all_means) {
    means.push_back({{"kernel", mean.benchmark->kernel},
                     {"shapes", mean.shapes},
                     {"type", sidewinder::name_of(mean.benchmark->compute)},
                     {"share", mean.share},
                     {"bar", mean.benchmark->mean_bar},
                     {"verdict", mean.verdict}});
  }
  const nlohmann::json report = {{"threads", peak.threads},
                                 {"isa", sidewinder::name_of(active_isa())},
                                 {"limits",
                                  {{"f32_flops", peak.f32_flops},
                                   {"bf16_flops", peak.bf16_flops},
                                   {"exp_rate", peak.exp_rate},
                                   {"read_bandwidth", peak.read_bandwidth},
                                   {"copy_bandwidth", peak.copy_bandwidth}}},
                                 {"kernels", kernels},
                                 {"means", means}};
  write_text_file(path, report.dump(2));
}

}  // namespace

ExitCode bench_kernels(const BenchKernelsOptions& options) {
  const std::vector<KernelBenchmark> benchmarks = chosen(options.only);
  // Clocks and bars: without AVX-512 the kernels run, but what they should reach was not studied.
  const bool has_bars = active_isa() >= Isa::avx512;
  Machine machine(ThreadPool::global().num_threads());
  print_limits(machine.peak);
  std::vector<Result> results;
  for (const KernelBenchmark& benchmark : benchmarks) {
    results.push_back(measure(benchmark, machine, has_bars));
    print_result(results.back());
  }
  const std::vector<Mean> means = means_of(results, has_bars);
  if (!means.empty()) fmt::print("\n");
  for (const Mean& mean : means) print_mean(mean);
  const auto count_below = [](const auto& of) {
    return std::count_if(of.begin(), of.end(), [](const auto& r) { return r.verdict == "below"; });
  };
  const auto below = count_below(results) + count_below(means);
  if (below > 0) fmt::print("\n{} figures are below their bar\n", below);
  if (!options.json_path.empty()) write_json(options.json_path, machine.peak, results, means);
  return options.check && below > 0 ? ExitCode::below_bar : ExitCode::success;
}

}  // namespace sidewinder
