#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "data/files.h"
#include "data/loader.h"
#include "kernels/base/error.h"
#include "tests/support/small_corpus.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryFolder;

DataOptions options_for(const std::string& folder, int64_t prefetch) {
  DataOptions options;
  options.train.push_back({"corpus", folder, 1.0});
  options.packing_buffer = 16;
  options.prefetch = prefetch;
  return options;
}

TEST(LoaderThreads, PrefetchingDoesNotChangeTheStream) {
  const TemporaryFolder folder;
  testing::write_corpus(
      folder.path(), testing::random_documents(testing::random_lengths(200, 300, 1), 500, 2), 500);
  const auto plan = [](const Progress& progress) {
    return RowPlan{4, 32 + progress.row_slots / 4096 * 16};
  };
  std::vector<std::vector<int32_t>> expected;
  Loader plain(options_for(folder.path(), 0), 1, plan);
  for (int step = 0; step < 100; ++step) expected.push_back(plain.next().tokens);
  for (const int64_t prefetch : {1, 2, 9}) {
    Loader loader(options_for(folder.path(), prefetch), 1, plan);
    for (int step = 0; step < 100; ++step) {
      ASSERT_EQ(loader.next().tokens, expected[static_cast<size_t>(step)]);
      // Batches made ahead are not counted.
      EXPECT_EQ(loader.counts().trained_tokens + loader.counts().padding > 0, true);
    }
    EXPECT_EQ(loader.cursor().text, plain.cursor().text);
    EXPECT_EQ(loader.counts().trained_tokens, plain.counts().trained_tokens);
  }
}

TEST(LoaderThreads, EndsCleanlyAtAnyMoment) {
  const TemporaryFolder folder;
  testing::write_corpus(
      folder.path(), testing::random_documents(testing::random_lengths(50, 300, 1), 500, 2), 500);
  for (int trial = 0; trial < 60; ++trial) {
    Loader loader(options_for(folder.path(), 3), 1, [](const Progress&) { return RowPlan{8, 64}; });
    for (int step = 0; step < trial % 5; ++step) EXPECT_EQ(loader.next().rows, 8);
    std::this_thread::sleep_for(std::chrono::microseconds(trial * 20));
  }
}

TEST(LoaderThreads, ErrorsOfTheThreadComeAfterTheBatchesMadeBeforeThem) {
  const TemporaryFolder folder;
  testing::write_corpus(folder.path(), testing::random_documents({2000, 300'000}, 500, 2), 500);
  const std::string path = folder / "train/shard-00000.h5";
  std::string bytes = read_file(path);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_file(path, bytes);
  Loader loader(options_for(folder.path(), 2), 1, [](const Progress&) { return RowPlan{1, 256}; });
  int good = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    try {
      for (int step = 0; step < 5000; ++step) {
        EXPECT_EQ(loader.next().rows, 1);
        ++good;
      }
      ADD_FAILURE() << "the damage was not noticed";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::environment);
      EXPECT_THAT(error.what(), HasSubstr("are damaged (digest of block"));
    }
  }
  EXPECT_GT(good, 0);
}

TEST(LoaderThreads, ErrorsOfThePlanReachTheCaller) {
  const TemporaryFolder folder;
  testing::write_corpus(folder.path(), testing::random_documents({50, 60}, 500, 2), 500);
  Loader loader(options_for(folder.path(), 2), 1, [](const Progress& progress) {
    return progress.step < 3 ? RowPlan{1, 16} : RowPlan{1, 0};
  });
  for (int step = 0; step < 3; ++step) EXPECT_EQ(loader.next().rows, 1);
  EXPECT_THROW(loader.next(), Error);
}

}  // namespace
}  // namespace sidewinder
