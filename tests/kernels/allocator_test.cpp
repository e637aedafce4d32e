#include "kernels/tensor/allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/tensor/dry_run.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr double kLinesBetween = 3 * 4096;  // at most, of three large blocks

// In a DryRun, so that the arena is empty and takes no memory.
int64_t reserved(const DryRun& run) { return run.statistics().bytes_reserved; }

Tensor of_mib(int64_t size) {
  return Tensor::empty({size, static_cast<int64_t>(kMiB / 4)}, Dtype::f32);
}

TEST(Arena, BlocksThatWereTakenOneByOneBecomeOne) {
  const DryRun run;
  std::vector<Tensor> parts(10);
  for (Tensor& part : parts) part = of_mib(50);
  const int64_t before = reserved(run);
  EXPECT_LT(before, int64_t{564} << 20);
  parts.clear();
  EXPECT_EQ(run.statistics().bytes_in_use, 0);
  const Tensor whole = of_mib(500);
  EXPECT_EQ(reserved(run), before);
}

TEST(Arena, GrowsByWhatTheFreeEndLacks) {
  const DryRun run;
  Tensor first = of_mib(40);         // leaves 24 of the 64 MiB taken
  const Tensor second = of_mib(80);  // lies in these and 64 more
  EXPECT_EQ(reserved(run), int64_t{128} << 20);
  first = {};
  const Tensor third = of_mib(40);  // where the first one was
  EXPECT_EQ(reserved(run), int64_t{128} << 20);
  EXPECT_NEAR(static_cast<double>(run.statistics().bytes_peak), 120.0 * kMiB, kLinesBetween);
}

TEST(Arena, HolesAreFilledBeforeTheEndMoves) {
  const DryRun run;
  Tensor first = of_mib(40);
  const Tensor second = of_mib(1);  // 23 of the 64 MiB taken are left behind it
  const void* const hole = first.raw();
  first = {};
  const Tensor third = of_mib(20);
  EXPECT_EQ(third.raw(), hole);
}

TEST(Arena, LargeBlocksDoNotBeginInTheSameSetsOfTheCaches) {
  const DryRun run;
  std::vector<Tensor> blocks(8);
  std::set<uintptr_t> sets;
  for (Tensor& block : blocks) {
    block = of_mib(2);
    sets.insert(reinterpret_cast<uintptr_t>(block.raw()) / 64 % 64);
  }
  EXPECT_EQ(sets.size(), 8);
}

TEST(Arena, HoldsMoreThanOneRangeOfAddresses) {
  const DryRun run;
  const Tensor small = of_mib(3);
  const Tensor huge = of_mib(int64_t{8} << 20);  // 8 TiB, longer than a range
  const Tensor after = of_mib(100);
  EXPECT_NEAR(static_cast<double>(run.statistics().bytes_in_use),
              static_cast<double>((8 * kMiB + 103) * kMiB), kLinesBetween);
  EXPECT_NE(after.raw(), huge.raw());
}

TEST(Arena, MemoryThatIsNotThereIsAnErrorThatSaysSo) {
  const Tensor before = of_mib(1);
  try {
    of_mib(int64_t{1} << 30);  // 1 PiB
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    EXPECT_NE(std::string(error.what()).find("out of memory: 1073741824 MiB more"),
              std::string::npos)
        << error.what();
  }
  // What was left before is given away once.
  std::vector<Tensor> blocks;
  for (uint8_t i = 0; i < 100; ++i) {
    blocks.push_back(of_mib(1));
    std::memset(blocks.back().raw(), i, kMiB);
  }
  for (uint8_t i = 0; i < 100; ++i) {
    const auto* const bytes = static_cast<const uint8_t*>(blocks[i].raw());
    EXPECT_EQ(std::count(bytes, bytes + kMiB, i), kMiB);
  }
}

}  // namespace
}  // namespace sidewinder
