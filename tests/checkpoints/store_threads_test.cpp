#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "checkpoints/store.h"
#include "kernels/base/hdf5_file.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

// What an asynchronous save does: training changes its tensors and other files are read while a
// thread writes the staged copy.
TEST(StoreThreads, AStagedCheckpointIsWrittenWhileTrainingGoesOn) {
  const testing::TemporaryFolder folder;
  {
    Hdf5Writer writer(folder / "tokens.h5");
    const std::vector<uint16_t> tokens(1000, 7);
    writer.write("tokens", Hdf5Type::u16, std::vector<uint64_t>{tokens.size()}, tokens.data());
    writer.close();
  }
  const CheckpointContent content = testing::sample_content(1);
  for (int64_t step = 1; step <= 5; ++step) {
    CheckpointContent staged = stage(content);
    staged.step = step;
    std::atomic<bool> done = false;
    std::thread writer([&] {
      Store(folder.path()).save(staged, {.keep_last = 100});
      done = true;
    });
    while (!done) {
      for (const NamedTensor& entry : content.tensors) Tensor(entry.tensor).fill_zero();
      const Hdf5Reader reader(folder / "tokens.h5");
      std::vector<uint16_t> tokens(1000);
      reader.read("tokens", tokens.data(), 2000);
      ASSERT_EQ(tokens[999], 7);
    }
    writer.join();
    CheckpointContent loaded = load_checkpoint_or_newest(folder.path());
    ASSERT_EQ(loaded.step, step);
    ASSERT_TRUE(testing::same_content(loaded, staged));
  }
}

}  // namespace
}  // namespace sidewinder
