#include "kernels/tensor/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/tensor/dry_run.h"

namespace sidewinder {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{64} << 20;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// Best fit over address-ordered blocks; neighbours of one region are joined when both are free.
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
    const size_t size = round_up(std::max<size_t>(bytes, 1), kAlignment);
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
    return reinterpret_cast<void*>(address);
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

  void grow(size_t size) {
    const size_t bytes = round_up(std::max(size, kRegion), kHugePage);
    const size_t mapped = bytes + kHugePage;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (of_addresses_ ? MAP_NORESERVE : 0);
    void* raw = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (raw == MAP_FAILED) {
      fail_environment(
          "out of memory: {} MiB more were needed with {} MiB in use; use fewer tokens "
          "per micro-batch or turn recompute on",
          bytes >> 20, statistics_.bytes_in_use >> 20);
    }
    const uintptr_t begin = round_up(reinterpret_cast<uintptr_t>(raw), kHugePage);
    madvise(reinterpret_cast<void*>(begin), bytes, of_addresses_ ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    mappings_.emplace_back(raw, mapped);
    blocks_.emplace(begin, Block{bytes, begin, false});
    free_.insert({bytes, begin});
    statistics_.bytes_reserved += static_cast<int64_t>(bytes);
  }

  const bool of_addresses_;
  mutable std::mutex mutex_;
  std::vector<std::pair<void*, size_t>> mappings_;
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
