#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/corpus_builder.h"
#include "data/files.h"
#include "kernels/base/thread_pool.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::TemporaryFolder;

TEST(CorpusBuilderThreads, TheNumberOfThreadsDoesNotMatter) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "text");
  // More than one batch of documents, some of them of many parts.
  for (int i = 0; i < 60; ++i) {
    std::string text = "document " + std::to_string(i) + " ";
    const int repeats = i % 10 == 0 ? 100'000 : 300;
    for (int k = 0; k < repeats; ++k) {
      const int word = k * (i + 7) % 9973;
      for (int rest = word; rest > 0; rest /= 7) text += static_cast<char>('a' + rest % 26);
      text += word % 9 == 0 ? ".\n" : " of it ";
    }
    write_file(folder / "text/" + std::to_string(i) + ".txt", text);
  }
  CorpusBuildOptions options;
  options.inputs = {folder / "text"};
  options.training.vocabulary = 300;
  options.training.kind = TokenizerKind::bpe;
  options.sample_bytes = 100'000;
  options.shard_tokens = 1'000'000;
  options.hold_out = 0.2;
  std::vector<CorpusIndex> indexes;
  const int before = ThreadPool::global().num_threads();
  for (const int threads : {1, 2, 3}) {
    ThreadPool::global().resize(threads);
    options.output = folder / "out" + std::to_string(threads);
    indexes.push_back(build_corpus(options, [](const CorpusBuildProgress&) {}).index);
  }
  ThreadPool::global().resize(before);
  EXPECT_GE(indexes[0].train.size(), 2U);
  EXPECT_EQ(to_json(indexes[0]), to_json(indexes[1]));
  EXPECT_EQ(to_json(indexes[0]), to_json(indexes[2]));
  for (const ShardRecord& shard : indexes[0].train) {
    const std::string first = read_file(folder / "out1/" + shard.file);
    EXPECT_EQ(first, read_file(folder / "out2/" + shard.file));
    EXPECT_EQ(first, read_file(folder / "out3/" + shard.file));
  }
}

}  // namespace
}  // namespace sidewinder
