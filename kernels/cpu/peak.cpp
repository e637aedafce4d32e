#include "kernels/cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <tuple>

#include "kernels/base/check.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/peak.h"

namespace sidewinder {
namespace {

constexpr int kBursts = 12;
constexpr double kBurstSeconds = 2.5e-3;
constexpr int kPasses = 5;
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

// Bytes per second of piece(begin, count) over kStreamElements, all threads sharing them.
template <typename Piece>
double bandwidth(int threads, double bytes_per_element, Piece&& piece) {
  const int64_t share = kStreamElements / threads / 1024 * 1024;
  const double seconds = seconds_of(threads, [&](int64_t i) { piece(i * share, share); });
  return bytes_per_element * static_cast<double>(share) * threads / seconds;
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

double measure_exp_rate(int threads) {
  check_threads(threads);
  const PeakLoops& loops = peak_loops_for_isa();
  return best_rate(threads, loops.exps_per_round, loops.exp);
}

MemoryStreams::MemoryStreams(int threads) : threads_(threads) {
  check_threads(threads);
  // As tensors of a kernel: the allocator keeps them from beginning in the same sets of the caches.
  from_ = Tensor::zeros({kStreamElements}, Dtype::f32);
  to_ = Tensor::zeros({kStreamElements}, Dtype::f32);
}

double MemoryStreams::read() const {
  const float* const from = from_.data<float>();
  return bandwidth(threads_, sizeof(float), [&](int64_t begin, int64_t count) {
    peak_loops_for_isa().read(from + begin, count);
  });
}

double MemoryStreams::copy() const {
  const float* const from = from_.data<float>();
  float* const to = to_.data<float>();
  return bandwidth(threads_, 2 * sizeof(float), [&](int64_t begin, int64_t count) {
    peak_loops_for_isa().copy(to + begin, from + begin, count);
  });
}

MachinePeak measure_peak(int threads) {
  MachinePeak peak{.threads = threads};
  peak.f32_flops = measure_peak_flops(Dtype::f32, threads);
  peak.bf16_flops = measure_peak_flops(Dtype::bf16, threads);
  peak.exp_rate = measure_exp_rate(threads);
  const MemoryStreams memory(threads);
  for (int pass = 0; pass < kPasses; ++pass) {
    peak.read_bandwidth = std::max(peak.read_bandwidth, memory.read());
    peak.copy_bandwidth = std::max(peak.copy_bandwidth, memory.copy());
  }
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
