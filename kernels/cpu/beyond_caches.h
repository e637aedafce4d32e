#pragma once
// Stores of results that are too large for the caches need not read their lines first.

#include "kernels/tensor/tensor.h"

namespace sidewinder::cpu {

// Of results of this size most has left the caches before anyone reads it.
inline bool is_beyond_caches(const Tensor& result) {
  constexpr size_t kBytes = size_t{8} << 20;
  return result.bytes() > kBytes;
}

}  // namespace sidewinder::cpu
