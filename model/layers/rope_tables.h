#pragma once
// The tables of rotary positions of a model: layers that turn alike read the same one.

#include <vector>

#include "kernels/ops/rope.h"

namespace sidewinder {

class RopeTables {
 public:
  // Reaches `positions` at least, with the frequencies of a sequence of `length` tokens. Valid
  // until the next call; copies share its tensors.
  const RopeTable& of(const RopeOptions& options, int64_t positions, int64_t length, Dtype dtype);

 private:
  struct Entry {
    RopeOptions options;
    int64_t length_class = 0;
    RopeTable table;
  };
  std::vector<Entry> entries_;  // the newest of each options
};

}  // namespace sidewinder
