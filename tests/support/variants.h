#pragma once
// Runs a test body under every instruction-set level of this machine, or for several pool sizes.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/tensor/dtype.h"

namespace sidewinder::testing {

inline std::vector<Isa> those_that_run(const std::vector<Isa>& levels) {
  std::vector<Isa> result;
  for (const Isa isa : levels) {
    if (can_run(isa)) result.push_back(isa);
  }
  return result;
}
// Where products of bf16 matrices run on tile registers or on the model of them.
inline std::vector<Isa> tile_levels() { return those_that_run({Isa::avx512_amx, Isa::amx_model}); }
// Those at which matrix products differ.
inline std::vector<Isa> product_levels() {
  return those_that_run(
      {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::avx512_amx, Isa::amx_model});
}
// Those at which everything else differs.
inline std::vector<Isa> vector_levels() {
  return those_that_run({Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16});
}

inline void for_each_isa(const std::vector<Isa>& levels, const std::function<void()>& body) {
  const Isa before = active_isa();
  for (const Isa isa : levels) {
    force_isa(isa);
    const ::testing::ScopedTrace trace(__FILE__, __LINE__, std::string(name_of(isa)));
    body();
  }
  force_isa(before);
}
inline void for_each_isa(const std::function<void()>& body) { for_each_isa(vector_levels(), body); }

// A level and the storage type of a test of its own, where one body for all would be too long.
struct Path {
  Isa isa;
  Dtype dtype;
};

// Every level of this machine with f32 and bf16.
inline std::vector<Path> all_paths() {
  std::vector<Path> paths;
  for (const Isa isa : vector_levels()) {
    paths.push_back({isa, Dtype::f32});
    paths.push_back({isa, Dtype::bf16});
  }
  return paths;
}

inline std::string path_name(const ::testing::TestParamInfo<Path>& path) {
  return std::string(name_of(path.param.isa)) + "_" + std::string(name_of(path.param.dtype));
}

class PathTest : public ::testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    previous_ = active_isa();
    force_isa(GetParam().isa);
  }
  void TearDown() override { force_isa(previous_); }

 private:
  Isa previous_ = Isa::generic;
};

// A pool of one thread while it lives: what several would do in one order or another is fixed, and
// child processes can be forked.
class OneThread {
 public:
  OneThread() : before_(ThreadPool::global().num_threads()) { ThreadPool::global().resize(1); }
  ~OneThread() { ThreadPool::global().resize(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

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
