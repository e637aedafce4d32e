#pragma once
// What a computation would allocate, found by going through it without computing. While a DryRun
// lives, tensors made by its thread lie in an arena of its own, of reserved addresses that take no
// memory until they are written to, and parallel_for of that thread calls no item. Operations thus
// check, allocate and free as they always do, in the same order and with the same sizes, and
// neither read nor write what is large.
//
//   DryRun dry_run;
//   { HybridModel model(...); ... tape.backward(loss); }   // all tensors must be gone by its end
//   dry_run.statistics().bytes_peak
//
// Not seen is what items themselves allocate: work space of a thread, a few MiB each. Values are
// meaningless, mostly zero. f64 kernels are plain loops without items and do compute.

#include <memory>

#include "kernels/base/thread_pool.h"
#include "kernels/tensor/allocator.h"

namespace sidewinder {

class DryRun {
 public:
  // One at a time per thread.
  DryRun();
  ~DryRun();
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;

  MemoryStatistics statistics() const { return arena_->statistics(); }
  void reset_peak() { arena_->reset_peak(); }

 private:
  std::unique_ptr<Allocator> arena_;
  SkipItems skip_items_;
};

}  // namespace sidewinder
