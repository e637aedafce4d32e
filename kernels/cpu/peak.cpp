#include "kernels/cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <tuple>

#include "kernels/base/check.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/peak.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {
namespace {

constexpr int kBursts = 12;
constexpr double kBurstSeconds = 2.5e-3;
// More than twice the last-level cache of most machines.
constexpr int64_t kStreamElements = int64_t{32} << 20;

double seconds_of(int threads, const auto& item) {
  const auto begin = std::chrono::steady_clock::now();
  ThreadPool::global().parallel_for(threads, item);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Work per second of loop(rounds) on every thread, `per_round` each.
double best_rate(int threads, double per_round, void (*loop)(int64_t)) {
  int64_t rounds = 1024;
  while (seconds_of(1, [&](int64_t) { loop(rounds); }) < kBurstSeconds) rounds *= 2;
  double best = 0;
  for (int burst = 0; burst < kBursts; ++burst) {
    const double seconds = seconds_of(threads, [&](int64_t) { loop(rounds); });
    best = std::max(best, per_round * static_cast<double>(rounds) * threads / seconds);
  }
  return best;
}

// Bytes per second over pieces of `elements`, all threads sharing them.
template <typename Piece>
double best_bandwidth(int threads, int64_t elements, double bytes_per_element, Piece&& piece) {
  const int64_t share = elements / threads / 1024 * 1024;
  double best = 0;
  for (int burst = 0; burst < 5; ++burst) {
    const double seconds = seconds_of(threads, [&](int64_t i) { piece(i * share, share); });
    best = std::max(best, bytes_per_element * static_cast<double>(share) * threads / seconds);
  }
  return best;
}

void check_threads(int threads) {
  SIDEWINDER_REQUIRE(threads >= 1 && threads <= ThreadPool::global().num_threads(),
                     "cannot measure the peak of {} threads in a pool of {}; set "
                     "SIDEWINDER_THREADS",
                     threads, ThreadPool::global().num_threads());
}

}  // namespace

double measure_peak_flops(Dtype compute, int threads) {
  check_threads(threads);
  const PeakLoops& loops = peak_loops_for_isa();
  if (compute == Dtype::f64) return best_rate(threads, loops.f64_flops_per_round, loops.f64);
  if (compute == Dtype::bf16 && loops.bf16 != nullptr) {
    return best_rate(threads, loops.bf16_flops_per_round, loops.bf16);
  }
  return best_rate(threads, loops.f32_flops_per_round, loops.f32);
}

MachinePeak measure_peak(int threads) {
  check_threads(threads);
  const PeakLoops& loops = peak_loops_for_isa();
  MachinePeak peak{.threads = threads};
  peak.f32_flops = measure_peak_flops(Dtype::f32, threads);
  peak.bf16_flops = measure_peak_flops(Dtype::bf16, threads);
  peak.exp_rate = best_rate(threads, loops.exps_per_round, loops.exp);
  const Tensor buffer = Tensor::zeros({2 * kStreamElements}, Dtype::f32);
  float* const data = buffer.data<float>();
  peak.read_bandwidth =
      best_bandwidth(threads, 2 * kStreamElements, sizeof(float),
                     [&](int64_t begin, int64_t count) { loops.read(data + begin, count); });
  peak.copy_bandwidth = best_bandwidth(
      threads, kStreamElements, 2 * sizeof(float), [&](int64_t begin, int64_t count) {
        loops.copy(data + kStreamElements + begin, data + begin, count);
      });
  return peak;
}

double peak_flops(Dtype compute) {
  static std::mutex mutex;
  static std::map<std::tuple<Dtype, Isa, int>, double> known;
  const int threads = ThreadPool::global().num_threads();
  const std::lock_guard<std::mutex> lock(mutex);
  double& value = known[{compute, active_isa(), threads}];
  if (value == 0) value = measure_peak_flops(compute, threads);
  return value;
}

}  // namespace sidewinder
