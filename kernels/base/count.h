#pragma once
// What work items that build on one another wait for.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kernels/base/relax.h"

namespace sidewinder {

// A number that only grows. Items of parallel_for are handed out in order: what an item waits for
// must be added by an earlier one, also when that one fails, so that waiting ends.
class Count {
 public:
  explicit Count(int32_t begin = 0) : value_(begin) {}

  // Before any thread waits.
  void begin_at(int32_t value) { value_.store(value, std::memory_order_relaxed); }
  void add() {
    value_.fetch_add(1, std::memory_order_acq_rel);
    value_.notify_all();
  }
  void wait_for(int64_t least) const {
    // About the time that waking a thread takes.
    constexpr int kSpins = 2000;
    for (int spin = 0;; ++spin) {
      const int32_t value = value_.load(std::memory_order_acquire);
      if (value >= least) return;
      if (spin < kSpins) {
        relax();
      } else {
        value_.wait(value, std::memory_order_acquire);
      }
    }
  }

 private:
  static constexpr size_t kLine = 64;  // counts of different threads share none
  alignas(kLine) std::atomic<int32_t> value_;
};

}  // namespace sidewinder
