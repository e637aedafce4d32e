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
// that hardly ever is there a second one, and blocks of any size can be joined. What lies behind
// the last block is no block: it is taken when nothing else fits, so that the end stays low.
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
    const auto found = free_.lower_bound({size, 0});
    const uintptr_t address = found != free_.end() ? take_part(found, size) : take_behind(size);
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
    if (block->second.region == region_ && block->first + block->second.size == end_) {
      end_ = block->first;
      blocks_.erase(block);
    } else {
      free_.insert({block->second.size, block->first});
    }
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
  using FreeBlocks = std::set<std::pair<size_t, uintptr_t>>;  // size, address

  static bool joins(Blocks::iterator left, Blocks::iterator right) {
    return !left->second.used && !right->second.used && left->second.region == right->second.region;
  }

  // The beginning of a free block; the rest stays free.
  uintptr_t take_part(FreeBlocks::iterator found, size_t size) {
    const uintptr_t address = found->second;
    free_.erase(found);
    Block& block = blocks_.at(address);
    block.used = true;
    if (block.size > size) {
      const Block rest{block.size - size, block.region, false};
      block.size = size;
      blocks_.emplace(address + size, rest);
      free_.insert({rest.size, address + size});
    }
    return address;
  }

  uintptr_t take_behind(size_t size) {
    if (size > region_end_ - end_) begin_region(size);
    if (size > taken_end_ - end_) grow(size - (taken_end_ - end_));
    const uintptr_t address = end_;
    blocks_.emplace(address, Block{size, region_, true});
    end_ += size;
    return address;
  }

  void begin_region(size_t size) {
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
    if (end_ < taken_end_) {
      blocks_.emplace(end_, Block{taken_end_ - end_, region_, false});
      free_.insert({taken_end_ - end_, end_});
    }
    mappings_.emplace_back(raw, reserved);
    region_ = round_up(reinterpret_cast<uintptr_t>(raw), kHugePage);
    end_ = taken_end_ = region_;
    region_end_ = (reinterpret_cast<uintptr_t>(raw) + reserved) / kHugePage * kHugePage;
  }

  void grow(size_t missing) {
    const size_t bytes = std::min(region_end_ - taken_end_, round_up(missing, kGrowth));
    void* begin = at(taken_end_);
    if (mprotect(begin, bytes, PROT_READ | PROT_WRITE) != 0) fail_to_grow(bytes);
    madvise(begin, bytes, of_addresses_ ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    taken_end_ += bytes;
    statistics_.bytes_reserved += static_cast<int64_t>(bytes);
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
  // The newest region; where its last block ends, and what is taken from the system of it.
  uintptr_t region_ = 0, end_ = 0, taken_end_ = 0, region_end_ = 0;
  Blocks blocks_;
  FreeBlocks free_;
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
