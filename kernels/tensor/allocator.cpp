#include "kernels/tensor/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/rounding.h"
#include "kernels/tensor/dry_run.h"

namespace sidewinder {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
// Taken from the system at a time.
constexpr size_t kGrowth = size_t{64} << 20;

// Large blocks are often as long as a power of two makes them. Laid end to end they would all begin
// in the same sets of the caches, and rows of several tensors would drive one another out; so there
// are some lines between them, a number with few factors in common with that of the sets.
constexpr size_t kLarge = size_t{1} << 20;
constexpr size_t kStagger = 42 * kAlignment;

// Addresses are kept as numbers, to compare and add.
void* at(uintptr_t address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

size_t bytes_of_machine() {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
}

// Best fit over address-ordered blocks; neighbours of one region are joined when both are free. A
// region is a range of addresses as long as the memory of the machine, used from its beginning, so
// that hardly ever is there a second one, and blocks of any size can be joined.
class Arena final : public Allocator {
 public:
  // `of_addresses`: for a dry run; no huge pages, and no claim on the system's memory.
  explicit Arena(bool of_addresses) : of_addresses_(of_addresses) {}

  ~Arena() override {
    for (const auto& [raw, bytes] : mappings_) munmap(raw, bytes);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void* allocate(size_t bytes) override {
    const size_t size =
        round_up(std::max<size_t>(bytes, 1), kAlignment) + (bytes < kLarge ? 0 : kStagger);
    const std::lock_guard<std::mutex> lock(mutex_);
    auto found = free_.lower_bound({size, 0});
    if (found == free_.end()) {
      grow(size);
      found = free_.lower_bound({size, 0});
    }
    const uintptr_t address = found->second;
    free_.erase(found);
    Block& block = blocks_.at(address);
    block.used = true;
    if (block.size > size) {
      Block rest{block.size - size, block.region, false};
      block.size = size;
      blocks_.emplace(address + size, rest);
      free_.insert({rest.size, address + size});
    }
    statistics_.bytes_in_use += static_cast<int64_t>(size);
    statistics_.bytes_peak = std::max(statistics_.bytes_peak, statistics_.bytes_in_use);
    return at(address);
  }

  void free(void* pointer) noexcept override {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto block = blocks_.find(reinterpret_cast<uintptr_t>(pointer));
    statistics_.bytes_in_use -= static_cast<int64_t>(block->second.size);
    block->second.used = false;
    if (const auto next = std::next(block); next != blocks_.end() && joins(block, next)) {
      free_.erase({next->second.size, next->first});
      block->second.size += next->second.size;
      blocks_.erase(next);
    }
    if (block != blocks_.begin()) {
      const auto previous = std::prev(block);
      if (joins(previous, block)) {
        free_.erase({previous->second.size, previous->first});
        previous->second.size += block->second.size;
        blocks_.erase(block);
        block = previous;
      }
    }
    free_.insert({block->second.size, block->first});
  }

  MemoryStatistics statistics() const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return statistics_;
  }

  void reset_peak() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    statistics_.bytes_peak = statistics_.bytes_in_use;
  }

 private:
  struct Block {
    size_t size = 0;
    uintptr_t region = 0;
    bool used = false;
  };
  using Blocks = std::map<uintptr_t, Block>;

  static bool joins(Blocks::iterator left, Blocks::iterator right) {
    return !left->second.used && !right->second.used && left->second.region == right->second.region;
  }

  // Makes a free block of at least `size` bytes at the end of what is used of the region.
  void grow(size_t size) {
    if (!extend(size)) {
      // A limit on addresses (ulimit -v) may leave less than the machine has.
      const size_t least = round_up(size, kHugePage) + kHugePage;
      size_t reserved = std::max(least, round_up(bytes_of_machine(), kHugePage));
      // What cannot be read takes nothing; what is used of it claims memory, but for a dry run.
      const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (of_addresses_ ? MAP_NORESERVE : 0);
      void* raw = mmap(nullptr, reserved, PROT_NONE, flags, -1, 0);
      while (raw == MAP_FAILED && reserved > least) {
        reserved = std::max(least, reserved / 2);
        raw = mmap(nullptr, reserved, PROT_NONE, flags, -1, 0);
      }
      if (raw == MAP_FAILED) fail_to_grow(size);
      mappings_.emplace_back(raw, reserved);
      region_ = round_up(reinterpret_cast<uintptr_t>(raw), kHugePage);
      used_end_ = region_;
      region_end_ = (reinterpret_cast<uintptr_t>(raw) + reserved) / kHugePage * kHugePage;
      if (!extend(size)) fail_to_grow(size);
    }
  }

  bool extend(size_t size) {
    size_t missing = size;
    auto last = blocks_.end();
    if (!blocks_.empty() && used_end_ > region_) {
      const auto end = std::prev(blocks_.lower_bound(used_end_));
      if (!end->second.used) {
        last = end;
        missing -= std::min(missing, end->second.size);
      }
    }
    const size_t left = region_end_ - used_end_;
    if (missing > left) return false;
    const size_t bytes = std::min(left, round_up(missing, kGrowth));
    void* begin = at(used_end_);
    if (mprotect(begin, bytes, PROT_READ | PROT_WRITE) != 0) fail_to_grow(bytes);
    madvise(begin, bytes, of_addresses_ ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    if (last != blocks_.end()) {
      free_.erase({last->second.size, last->first});
      last->second.size += bytes;
    } else {
      last = blocks_.emplace(used_end_, Block{bytes, region_, false}).first;
    }
    free_.insert({last->second.size, last->first});
    used_end_ += bytes;
    statistics_.bytes_reserved += static_cast<int64_t>(bytes);
    return true;
  }

  [[noreturn]] void fail_to_grow(size_t bytes) const {
    fail_environment(
        "out of memory: {} MiB more were needed with {} MiB in use; use fewer tokens per "
        "micro-batch or turn recompute on",
        bytes >> 20, statistics_.bytes_in_use >> 20);
  }

  const bool of_addresses_;
  mutable std::mutex mutex_;
  std::vector<std::pair<void*, size_t>> mappings_;
  uintptr_t region_ = 0, used_end_ = 0, region_end_ = 0;  // of the newest region
  Blocks blocks_;
  std::set<std::pair<size_t, uintptr_t>> free_;
  MemoryStatistics statistics_;
};

thread_local Allocator* arena_of_dry_run = nullptr;

}  // namespace

DryRun::DryRun() : arena_(std::make_unique<Arena>(/*of_addresses=*/true)) {
  arena_of_dry_run = arena_.get();
}

DryRun::~DryRun() { arena_of_dry_run = nullptr; }

Allocator& allocator_of(Device device) {
  SIDEWINDER_REQUIRE(device.kind == DeviceKind::cpu,
                     "no allocator for device cuda:{}; this build has the CPU backend only",
                     device.index);
  // Never destroyed: tensors with static lifetime may be freed after it otherwise.
  static Arena* const arena = new Arena(/*of_addresses=*/false);
  return arena_of_dry_run != nullptr ? *arena_of_dry_run : *arena;
}

}  // namespace sidewinder
