#include "kernels/ops/profile.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>

#include "kernels/base/thread_pool.h"

namespace sidewinder {
namespace {

std::atomic<bool> is_on{false};

struct Gathered {
  std::mutex mutex;
  std::map<std::string, OperationTime> by_name;
};

Gathered& gathered() {
  static Gathered instance;
  return instance;
}

}  // namespace

void set_profiling(bool on) {
  Gathered& all = gathered();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (on) all.by_name.clear();
  is_on.store(on, std::memory_order_relaxed);
}

bool profiling() { return is_on.load(std::memory_order_relaxed); }

std::vector<OperationTime> operation_times() {
  Gathered& all = gathered();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::vector<OperationTime> times;
  for (const auto& [name, time] : all.by_name) times.push_back(time);
  std::sort(times.begin(), times.end(),
            [](const OperationTime& a, const OperationTime& b) { return a.seconds > b.seconds; });
  return times;
}

void OperationTimer::begin() {
  busy_before_ = ThreadPool::global().busy_seconds();
  begin_ = std::chrono::steady_clock::now();
}

void OperationTimer::add() const {
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  Gathered& all = gathered();
  const std::lock_guard<std::mutex> lock(all.mutex);
  OperationTime& time = all.by_name[name_];
  time.name = name_;
  ++time.calls;
  time.seconds += seconds;
  time.busy_seconds += ThreadPool::global().busy_seconds() - busy_before_;
  time.flops += flops_;
}

}  // namespace sidewinder
