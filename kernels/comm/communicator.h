#pragma once
// Collectives within one group of ranks. Sums are formed in rank order, whatever the arrival order.
// On a group of one every call returns at once, so layers contain no "if distributed".

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace sidewinder {

enum class Reduction : uint8_t { sum, max };

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // In place. f32 or f64, contiguous, the same shape on every rank.
  virtual void all_reduce(Tensor& tensor, Reduction reduction) = 0;
  // shard [n/size] of the sum of all ranks' `whole` [n].
  virtual void reduce_scatter(Tensor& shard, const Tensor& whole) = 0;
  virtual void all_gather(Tensor& whole, const Tensor& shard) = 0;
  // Part i of `out` comes from rank i's part rank() of `in`.
  virtual void all_to_all(Tensor& out, const Tensor& in) = 0;
  // Sends `out` to rank + distance and receives `in` from rank − distance (cyclic).
  virtual void shift(Tensor& in, const Tensor& out, int distance) = 0;
  virtual void broadcast(Tensor& tensor, int root) = 0;
  virtual void barrier() = 0;
  // Ranks of equal color form a new group, ordered by their rank here.
  virtual std::unique_ptr<Communicator> split(int color) = 0;
};

// The group of one.
std::unique_ptr<Communicator> self_communicator();

// Runs `body` on `size` ranks as threads of this process, for tests of distributed algorithms.
// Rethrows the first exception after all ranks have ended (the others are woken with Error).
void run_ranks(int size, const std::function<void(Communicator&)>& body);

}  // namespace sidewinder
