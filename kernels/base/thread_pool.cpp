#include "kernels/base/thread_pool.h"

#include <sched.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/relax.h"

namespace sidewinder {
namespace {

// Set while a thread runs items, so that nested calls run inline.
thread_local bool inside_item = false;
thread_local bool skips_items = false;

// Subnormal numbers are flushed to zero while items run: states of the scan decay towards zero, and
// arithmetic on subnormals is slow.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : control_(_mm_getcsr()) { _mm_setcsr(control_ | 0x8040U); }
  ~FlushSubnormals() { _mm_setcsr(control_); }
#else
  FlushSubnormals() = default;
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned control_ = 0;
};

// Adds the time until its end.
class Busy {
 public:
  explicit Busy(std::atomic<int64_t>& nanoseconds) : nanoseconds_(nanoseconds) {}
  ~Busy() {
    const std::chrono::nanoseconds spent = std::chrono::steady_clock::now() - begin_;
    nanoseconds_.fetch_add(spent.count(), std::memory_order_relaxed);
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  std::atomic<int64_t>& nanoseconds_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

int default_num_threads() {
  if (const char* text = std::getenv("SIDEWINDER_THREADS")) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    SIDEWINDER_REQUIRE(end != text && *end == '\0' && value >= 1 && value <= 1024,
                       "SIDEWINDER_THREADS is \"{}\"; it must be a number from 1 to 1024", text);
    return static_cast<int>(value);
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

SkipItems::SkipItems() {
  SIDEWINDER_ASSERT(!skips_items);
  skips_items = true;
}

SkipItems::~SkipItems() { skips_items = false; }

struct ThreadPool::State {
  // One job at a time. `epoch` wakes the workers. A worker joins the job through `gate` while it is
  // open; the caller works too, closes the gate when no item is left, and waits only for workers
  // that joined: one that the system has not scheduled in time is not waited for.
  static constexpr uint32_t kOpen = 1U << 31;  // the lower bits count the workers inside
  std::mutex owner;
  std::atomic<uint32_t> epoch{0};
  std::atomic<uint32_t> gate{0};
  std::atomic<int64_t> next{0};
  int64_t count = 0;
  Call call = nullptr;
  void* body = nullptr;
  std::atomic<bool> stopping{false};
  std::atomic<int64_t> busy_nanoseconds{0};
  std::mutex error_mutex;
  std::exception_ptr error;
  std::vector<std::thread> workers;

  void run_items() {
    const Busy busy(busy_nanoseconds);
    inside_item = true;
    for (;;) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= count) break;
      try {
        call(body, i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
        next.store(count, std::memory_order_relaxed);
      }
    }
    inside_item = false;
  }

  bool join_job() {
    uint32_t seen = gate.load(std::memory_order_acquire);
    while ((seen & kOpen) != 0) {
      if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }

  void leave_job() {
    if (gate.fetch_sub(1, std::memory_order_acq_rel) == 1) gate.notify_one();
  }

  void close_job() {
    uint32_t seen = gate.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    for (int spin = 0; spin < 20000 && seen != 0; ++spin) {
      relax();
      seen = gate.load(std::memory_order_acquire);
    }
    while (seen != 0) {
      gate.wait(seen, std::memory_order_acquire);
      seen = gate.load(std::memory_order_acquire);
    }
  }

  void work(uint32_t seen) {
    const FlushSubnormals flush;
    for (;;) {
      // Spin for some tens of microseconds (the gap between two kernels), then sleep.
      for (int spin = 0; spin < 4000 && epoch.load(std::memory_order_acquire) == seen; ++spin) {
        relax();
      }
      epoch.wait(seen, std::memory_order_acquire);
      seen = epoch.load(std::memory_order_acquire);
      if (stopping.load()) return;
      if (join_job()) {
        run_items();
        leave_job();
      }
    }
  }

  void start(int num_workers) {
    stopping = false;
    const uint32_t seen = epoch.load();
    for (int i = 0; i < num_workers; ++i) workers.emplace_back([this, seen] { work(seen); });
  }

  void stop() {
    stopping = true;
    epoch.fetch_add(1);
    epoch.notify_all();
    for (std::thread& worker : workers) worker.join();
    workers.clear();
  }
};

ThreadPool& ThreadPool::global() {
  static ThreadPool pool(default_num_threads());
  return pool;
}

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  SIDEWINDER_REQUIRE(num_threads >= 1, "a thread pool needs at least one thread, not {}",
                     num_threads);
  state_->start(num_threads - 1);
}

ThreadPool::~ThreadPool() { state_->stop(); }

double ThreadPool::busy_seconds() const {
  return 1e-9 * static_cast<double>(state_->busy_nanoseconds.load(std::memory_order_relaxed));
}

int ThreadPool::num_threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::resize(int num_threads) {
  SIDEWINDER_REQUIRE(num_threads >= 1, "a thread pool needs at least one thread, not {}",
                     num_threads);
  const std::lock_guard<std::mutex> lock(state_->owner);
  state_->stop();
  state_->start(num_threads - 1);
}

void ThreadPool::run(int64_t count, Call call, void* body) {
  if (count <= 0 || skips_items) return;
  State& state = *state_;
  // `inside_item` is tested first: a mutex must not be tried again by the thread that holds it.
  const bool inline_only = inside_item || count == 1 || state.workers.empty();
  std::unique_lock<std::mutex> lock(state.owner, std::defer_lock);
  if (inline_only || !lock.try_lock()) {
    const FlushSubnormals flush;
    std::optional<Busy> busy;
    if (!inside_item) busy.emplace(state.busy_nanoseconds);
    for (int64_t i = 0; i < count; ++i) call(body, i);
    return;
  }
  state.count = count;
  state.call = call;
  state.body = body;
  state.next.store(0, std::memory_order_relaxed);
  state.gate.store(State::kOpen, std::memory_order_release);
  state.epoch.fetch_add(1, std::memory_order_release);
  state.epoch.notify_all();
  {
    const FlushSubnormals flush;
    state.run_items();
  }
  state.close_job();
  if (state.error) {
    const std::exception_ptr error = std::exchange(state.error, nullptr);
    lock.unlock();
    std::rethrow_exception(error);
  }
}

}  // namespace sidewinder
