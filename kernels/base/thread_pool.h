#pragma once
// Fork-join over work items. Which thread runs an item is not fixed, so an item must not depend on
// it: kernels give every item its own output or its own partial sum, and a partition that shapes a
// sum depends on the shape alone. That is what makes results the same for any number of threads.
// Items are handed out in order: one may wait for an earlier one, never for a later one.

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace sidewinder {

class ThreadPool {
 public:
  // The pool of the process. Its size is SIDEWINDER_THREADS, or the number of usable cores.
  static ThreadPool& global();

  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;
  // What threads spent on items since the pool began, summed over them.
  double busy_seconds() const;
  // Stops the workers and starts `num_threads - 1` new ones. Not while work is running.
  void resize(int num_threads);

  // Calls item(i) for 0 <= i < count, each once, and returns when all are done. The first exception
  // is rethrown. A call from inside an item, or while another thread owns the pool, runs inline.
  template <typename Item>
  void parallel_for(int64_t count, Item&& item) {
    using Body = std::remove_reference_t<Item>;
    run(count, [](void* body, int64_t i) { (*static_cast<Body*>(body))(i); },
        const_cast<void*>(static_cast<const void*>(&item)));
  }

 private:
  using Call = void (*)(void*, int64_t);
  void run(int64_t count, Call call, void* body);

  struct State;
  std::unique_ptr<State> state_;
};

// While one lives, parallel_for of its thread (of any pool) calls no item and returns at once: for
// going through a computation without computing (kernels/tensor/dry_run.h).
class SkipItems {
 public:
  SkipItems();
  ~SkipItems();
  SkipItems(const SkipItems&) = delete;
  SkipItems& operator=(const SkipItems&) = delete;
};

template <typename Item>
void parallel_for(int64_t count, Item&& item) {
  ThreadPool::global().parallel_for(count, std::forward<Item>(item));
}

// Splits [0, total) into pieces of `grain` (the last may be shorter) and calls item(begin, end).
template <typename Item>
void parallel_ranges(int64_t total, int64_t grain, Item&& item) {
  ThreadPool::global().parallel_for((total + grain - 1) / grain, [&](int64_t i) {
    const int64_t begin = i * grain;
    item(begin, begin + grain < total ? begin + grain : total);
  });
}

}  // namespace sidewinder
