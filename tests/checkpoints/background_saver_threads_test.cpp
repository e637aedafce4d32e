#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "checkpoints/background_saver.h"
#include "kernels/base/hdf5_file.h"
#include "kernels/base/thread_pool.h"
#include "kernels/tensor/allocator.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

const CheckpointOptions kKeepAll{.keep_last = 1000};

// Changes all tensors in place, with all threads, as an optimizer does.
void set_bytes(const CheckpointContent& content, int value) {
  for (const NamedTensor& entry : content.tensors) {
    parallel_ranges(static_cast<int64_t>(entry.tensor.bytes()), 64,
                    [&](int64_t begin, int64_t end) {
                      std::memset(static_cast<char*>(entry.tensor.raw()) + begin, value,
                                  static_cast<size_t>(end - begin));
                    });
  }
}

bool all_bytes_are(const CheckpointContent& content, int value) {
  for (const NamedTensor& entry : content.tensors) {
    const auto* const bytes = static_cast<const unsigned char*>(entry.tensor.raw());
    for (size_t i = 0; i < entry.tensor.bytes(); ++i) {
      if (bytes[i] != value) return false;
    }
  }
  return true;
}

// Training changes its tensors and other HDF5 files are read while checkpoints are written.
TEST(BackgroundSaver, EveryCheckpointHoldsTheStateOfItsStep) {
  const testing::TemporaryFolder folder;
  {
    Hdf5Writer writer(folder / "tokens.h5");
    const std::vector<uint16_t> tokens(1000, 7);
    writer.write("tokens", Hdf5Type::u16, std::vector<uint64_t>{tokens.size()}, tokens.data());
    writer.close();
  }
  constexpr int kSteps = 20;
  CheckpointContent content = testing::sample_content(1);
  {
    BackgroundSaver saver(folder / "run", kKeepAll);
    saver.reserve(content);
    for (int step = 1; step <= kSteps; ++step) {
      set_bytes(content, step);
      content.step = step;
      content.state = "{\"step\":" + std::to_string(step) + "}";
      saver.check();
      saver.save(content);
      const Hdf5Reader reader(folder / "tokens.h5");
      std::vector<uint16_t> tokens(1000);
      reader.read("tokens", tokens.data(), 2000);
      ASSERT_EQ(tokens[999], 7);
    }
    set_bytes(content, 255);
    saver.finish();
    EXPECT_EQ(saver.newest_step(), kSteps);
    EXPECT_GT(saver.times().write_seconds, 0);
  }
  const std::vector<FoundCheckpoint> found = list_checkpoints(folder / "run");
  ASSERT_EQ(found.size(), static_cast<size_t>(kSteps));
  for (const FoundCheckpoint& checkpoint : found) {
    const CheckpointContent loaded = load_checkpoint(checkpoint.folder);
    EXPECT_EQ(loaded.state, "{\"step\":" + std::to_string(checkpoint.step) + "}");
    EXPECT_TRUE(all_bytes_are(loaded, static_cast<int>(checkpoint.step))) << checkpoint.step;
  }
}

TEST(BackgroundSaver, TheDestructorWaitsForTheSaveUnderWay) {
  const testing::TemporaryFolder folder;
  const CheckpointContent content = testing::sample_content(4);
  {
    BackgroundSaver saver(folder / "run", kKeepAll);
    saver.save(content);
  }
  EXPECT_TRUE(testing::same_content(load_checkpoint_or_newest(folder / "run"), content));
}

TEST(BackgroundSaver, SavingNowComesAfterTheSaveUnderWayAndNeedsNoCopy) {
  const testing::TemporaryFolder folder;
  CheckpointContent content = testing::sample_content(4);
  BackgroundSaver saver(folder / "run", {.keep_last = 1});
  saver.save(content);
  content.step = 5;
  saver.save_now(content);
  EXPECT_EQ(saver.newest_step(), 5);
  EXPECT_EQ(list_checkpoints(folder / "run").size(), 1U);
  EXPECT_TRUE(testing::same_content(load_checkpoint_or_newest(folder / "run"), content));

  const int64_t before = allocator_of({}).statistics().bytes_in_use;
  BackgroundSaver other(folder / "other", kKeepAll);
  other.save_now(content);
  EXPECT_EQ(allocator_of({}).statistics().bytes_in_use, before);
}

TEST(BackgroundSaver, TheMemoryOfTheCopyIsReservedOnce) {
  const testing::TemporaryFolder folder;
  const CheckpointContent content = testing::sample_content(4);
  const auto in_use = [] { return allocator_of({}).statistics().bytes_in_use; };
  const int64_t before = in_use();
  BackgroundSaver saver(folder / "run", kKeepAll);
  saver.reserve(content);
  const int64_t reserved = in_use();
  EXPECT_GT(reserved, before);
  saver.save(content);
  EXPECT_EQ(in_use(), reserved);
  saver.save(content);
  saver.finish();
  EXPECT_EQ(in_use(), reserved);
}

// Where the run folder should be there is a file.
TEST(BackgroundSaver, AFailureComesOutAtTheNextCallAndOnlyOnce) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "run") << "in the way";
  const CheckpointContent content = testing::sample_content(4);
  BackgroundSaver saver(folder / "run", kKeepAll);
  const auto expect_failure = [&](auto&& call) {
    saver.save(content);
    try {
      call();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::environment);
      EXPECT_NE(std::string(error.what()).find(folder / "run"), std::string::npos) << error.what();
    }
    saver.check();
    saver.finish();
    EXPECT_EQ(saver.newest_step(), -1);
  };
  expect_failure([&] { saver.finish(); });
  expect_failure([&] { saver.save(content); });
  expect_failure([&] { saver.save_now(content); });
  expect_failure([&] {
    while (true) saver.check();
  });
  // Once the cause is gone, saving works again.
  std::filesystem::remove(folder / "run");
  saver.save(content);
  saver.finish();
  EXPECT_TRUE(testing::same_content(load_checkpoint_or_newest(folder / "run"), content));
}

TEST(BackgroundSaver, AFailureThatNobodyAskedAboutIsNotThrown) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "run") << "in the way";
  BackgroundSaver(folder / "run", kKeepAll).save(testing::sample_content(4));
  EXPECT_FALSE(std::filesystem::is_directory(folder / "run"));
}

}  // namespace
}  // namespace sidewinder
