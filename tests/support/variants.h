#pragma once
// Runs a test body under every instruction-set level of this machine, or for several pool sizes.

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"

namespace sidewinder::testing {

inline void for_each_isa(const std::function<void()>& body) {
  const Isa before = active_isa();
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
    if (isa > best_isa()) continue;
    force_isa(isa);
    const ::testing::ScopedTrace trace(__FILE__, __LINE__, std::string(name_of(isa)));
    body();
  }
  force_isa(before);
}

// Calls body(n) with a pool of n = 1, 2, 3, 5 threads.
inline void for_each_pool_size(const std::function<void(int)>& body) {
  const int before = ThreadPool::global().num_threads();
  for (const int size : {1, 2, 3, 5}) {
    ThreadPool::global().resize(size);
    body(size);
  }
  ThreadPool::global().resize(before);
}

}  // namespace sidewinder::testing
