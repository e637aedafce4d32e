#pragma once
// The arena of one device. Freed blocks are kept, split and joined again, so that a training step
// allocates nothing from the system after the first one of its kind. They all lie in one range of
// addresses that is taken into use from its beginning, 2 MiB aligned and asking for huge pages.

#include <cstddef>
#include <cstdint>

#include "kernels/tensor/device.h"

namespace sidewinder {

struct MemoryStatistics {
  int64_t bytes_in_use = 0;    // living tensors
  int64_t bytes_peak = 0;      // the most bytes_in_use has been since reset_memory_peak
  int64_t bytes_reserved = 0;  // taken from the system
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  // 64-byte aligned (2 MiB aligned for blocks of 2 MiB and more), not initialised.
  // Throws Error{environment} when the system has no memory left.
  virtual void* allocate(size_t bytes) = 0;
  virtual void free(void* pointer) noexcept = 0;
  virtual MemoryStatistics statistics() const = 0;
  virtual void reset_peak() = 0;
};

// That of the dry run (dry_run.h) in which the calling thread is, if it is in one.
Allocator& allocator_of(Device device);

}  // namespace sidewinder
