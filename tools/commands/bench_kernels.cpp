#include "tools/commands/bench_kernels.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string_view>

#include "kernels/base/philox.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/peak.h"
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

struct Result {
  const KernelBenchmark* benchmark = nullptr;
  double seconds = std::numeric_limits<double>::infinity();  // of the best run
  double rate = 0;                                           // units per second
  double share = 0;                                          // of the limit
  double error = 0;
  double cores = 0;     // share of the best round in which the threads had a core
  std::string verdict;  // "ok", "below", "n/a" or "" (no bar)
};

double limit_of(const KernelBenchmark& benchmark, const MachinePeak& peak) {
  switch (benchmark.unit) {
    case WorkUnit::flops:
      return benchmark.compute == Dtype::bf16 ? peak.bf16_flops : peak.f32_flops;
    case WorkUnit::bytes: return peak.copy_bandwidth;
    case WorkUnit::state_steps: break;
  }
  return peak.exp_rate;
}

std::string rate_text(const Result& result) {
  switch (result.benchmark->unit) {
    case WorkUnit::flops: return fmt::format("{:.0f} GFLOP/s", result.rate / 1e9);
    case WorkUnit::bytes: return fmt::format("{:.1f} GB/s", result.rate / 1e9);
    case WorkUnit::state_steps: break;
  }
  return fmt::format("{:.1f} G state-steps/s", result.rate / 1e9);
}

std::string bar_text(const KernelBenchmark& benchmark) {
  if (benchmark.bar == 0) return "-";
  if (benchmark.unit == WorkUnit::state_steps) {
    return fmt::format("{:.1f} G/core", benchmark.bar / 1e9);
  }
  return fmt::format("{:.0f} %", 100 * benchmark.bar);
}

// What is held against the bar.
double figure(const Result& result, const MachinePeak& peak) {
  return result.benchmark->unit == WorkUnit::state_steps ? result.rate / peak.threads
                                                         : result.share;
}

double seconds_of(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Runs for kRoundSeconds and keeps the best run.
void time_runs(const std::function<void()>& run, int threads, Result& result) {
  const double begin = seconds_of(CLOCK_MONOTONIC);
  const double cpu_begin = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  bool best = false;
  double now = begin;
  while (now - begin < kRoundSeconds) {
    run();
    const double end = seconds_of(CLOCK_MONOTONIC);
    best = best || end - now < result.seconds;
    result.seconds = std::min(result.seconds, end - now);
    now = end;
  }
  // Of the whole round: the time of a running thread is only accounted for every few milliseconds.
  const double cpu_seconds = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin;
  if (best) result.cores = std::min(1.0, cpu_seconds / ((now - begin) * threads));
}

// The limit may prove higher than it was at the start.
void refresh(MachinePeak& peak, const KernelBenchmark& benchmark) {
  if (benchmark.unit == WorkUnit::flops) {
    double& limit = benchmark.compute == Dtype::bf16 ? peak.bf16_flops : peak.f32_flops;
    limit = std::max(limit, measure_peak_flops(benchmark.compute, peak.threads));
    return;
  }
  const MachinePeak again = measure_peak(peak.threads);
  peak.copy_bandwidth = std::max(peak.copy_bandwidth, again.copy_bandwidth);
  peak.exp_rate = std::max(peak.exp_rate, again.exp_rate);
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

Result measure(const KernelBenchmark& benchmark, MachinePeak& peak, bool has_bars) {
  Result result;
  result.benchmark = &benchmark;
  result.error = checked_error(benchmark);
  const std::function<void()> run = benchmark.prepare();
  run();
  const bool has_bar = benchmark.bar > 0 && has_bars;
  for (int round = 0; round < kMostRounds; ++round) {
    time_runs(run, peak.threads, result);
    if (round == 0 || round == kRounds) refresh(peak, benchmark);
    result.rate = benchmark.work / result.seconds;
    result.share = result.rate / limit_of(benchmark, peak);
    if (round + 1 >= kRounds && (!has_bar || figure(result, peak) >= benchmark.bar)) break;
  }
  if (benchmark.bar > 0) {
    result.verdict = !has_bars ? "n/a" : (figure(result, peak) >= benchmark.bar ? "ok" : "below");
  }
  return result;
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
  fmt::print("{:<28} {:<24} {:<5} {:>22} {:>7} {:>11} {}\n", "kernel", "shape", "type", "rate",
             "share", "bar", "");
}

void print_result(const Result& result) {
  const KernelBenchmark& b = *result.benchmark;
  // Other work on the machine shows as threads that waited for a core.
  const std::string note =
      result.cores < 0.9 ? fmt::format(" (had {:.0f} % of its cores)", 100 * result.cores) : "";
  fmt::print("{:<28} {:<24} {:<5} {:>22} {:>5.0f} % {:>11} {}{}\n", b.kernel, b.shape,
             name_of(b.compute), rate_text(result), 100 * result.share, bar_text(b), result.verdict,
             note);
  std::fflush(stdout);
}

std::string_view name_of(WorkUnit unit) {
  switch (unit) {
    case WorkUnit::flops: return "flop/s";
    case WorkUnit::bytes: return "byte/s";
    case WorkUnit::state_steps: break;
  }
  return "state-step/s";
}

[[noreturn]] void fail_to_write(const std::string& path) {
  fail_environment("bench: cannot write {}; check that its folder exists and has space", path);
}

void write_json(const std::string& path, const MachinePeak& peak,
                const std::vector<Result>& results) {
  nlohmann::json kernels = nlohmann::json::array();
  for (const Result& result : results) {
    const KernelBenchmark& b = *result.benchmark;
    kernels.push_back({{"kernel", b.kernel},
                       {"shape", b.shape},
                       {"type", sidewinder::name_of(b.compute)},
                       {"seconds", result.seconds},
                       {"rate", result.rate},
                       {"unit", name_of(b.unit)},
                       {"share", result.share},
                       {"share_of_cores", result.cores},
                       {"bar", b.bar},
                       {"verdict", result.verdict},
                       {"relative_error", result.error}});
  }
  const nlohmann::json report = {{"threads", peak.threads},
                                 {"isa", sidewinder::name_of(active_isa())},
                                 {"limits",
                                  {{"f32_flops", peak.f32_flops},
                                   {"bf16_flops", peak.bf16_flops},
                                   {"exp_rate", peak.exp_rate},
                                   {"read_bandwidth", peak.read_bandwidth},
                                   {"copy_bandwidth", peak.copy_bandwidth}}},
                                 {"kernels", kernels}};
  std::ofstream file(path);
  file << report.dump(2) << "\n";
  file.close();
  if (!file) fail_to_write(path);
}

}  // namespace

int bench_kernels(const BenchKernelsOptions& options) {
  const std::vector<KernelBenchmark> benchmarks = chosen(options.only);
  // Minutes of measuring should not end in a path that cannot be written.
  if (!options.json_path.empty() && !std::ofstream(options.json_path, std::ios::app)) {
    fail_to_write(options.json_path);
  }
  // Clocks and bars: without AVX-512 the kernels run, but what they should reach was not studied.
  const bool has_bars = active_isa() >= Isa::avx512;
  MachinePeak peak = measure_peak(ThreadPool::global().num_threads());
  print_limits(peak);
  std::vector<Result> results;
  for (const KernelBenchmark& benchmark : benchmarks) {
    results.push_back(measure(benchmark, peak, has_bars));
    print_result(results.back());
  }
  const auto below = std::count_if(results.begin(), results.end(),
                                   [](const Result& r) { return r.verdict == "below"; });
  if (below > 0) fmt::print("\n{} of {} kernels are below their bar\n", below, results.size());
  if (!options.json_path.empty()) write_json(options.json_path, peak, results);
  return options.check && below > 0 ? 1 : 0;
}

}  // namespace sidewinder
