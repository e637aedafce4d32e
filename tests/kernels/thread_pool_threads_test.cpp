#include "kernels/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace sidewinder {
namespace {

TEST(ThreadPool, RunsEveryItemOnce) {
  ThreadPool pool(3);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int> counts(static_cast<size_t>(round % 17), 0);
    pool.parallel_for(static_cast<int64_t>(counts.size()),
                      [&](int64_t i) { ++counts[static_cast<size_t>(i)]; });
    for (const int count : counts) ASSERT_EQ(count, 1);
  }
}

TEST(ThreadPool, NestedCallsRunInline) {
  ThreadPool pool(2);
  std::atomic<int> sum{0};
  pool.parallel_for(8, [&](int64_t) { pool.parallel_for(8, [&](int64_t j) { sum += static_cast<int>(j); }); });
  EXPECT_EQ(sum, 8 * 28);
}

TEST(ThreadPool, SeveralCallersShareIt) {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::atomic<int64_t> sum{0};
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) pool.parallel_for(10, [&](int64_t i) { sum += i; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * 200 * 45);
}

TEST(ThreadPool, RethrowsAndStaysUsable) {
  ThreadPool pool(2);
  EXPECT_THROW(pool.parallel_for(
                   100, [](int64_t i) { if (i == 7) throw std::runtime_error("seven"); }),
               std::runtime_error);
  std::atomic<int> count{0};
  pool.parallel_for(5, [&](int64_t) { ++count; });
  EXPECT_EQ(count, 5);
}

TEST(ThreadPool, CanBeResizedBetweenJobs) {
  ThreadPool pool(1);
  for (const int size : {4, 1, 2, 3}) {
    pool.resize(size);
    EXPECT_EQ(pool.num_threads(), size);
    std::vector<int> values(1000);
    pool.parallel_for(1000, [&](int64_t i) { values[static_cast<size_t>(i)] = 1; });
    EXPECT_EQ(std::accumulate(values.begin(), values.end(), 0), 1000);
  }
}

}  // namespace
}  // namespace sidewinder
