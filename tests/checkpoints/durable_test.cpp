#include "checkpoints/durable.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kernels/base/digest.h"
#include "kernels/base/error.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;

TEST(Durable, FoldersAreCreatedWithThoseAbove) {
  const TemporaryFolder folder;
  create_folder(folder / "a/b/c");
  EXPECT_TRUE(fs::is_directory(folder / "a/b/c"));
  create_folder(folder / "a/b/c");
  create_folder(folder / "d/");
  EXPECT_TRUE(fs::is_directory(folder / "d"));
  std::ofstream(folder / "file") << "x";
  EXPECT_THROW(create_folder(folder / "file"), Error);
  EXPECT_THROW(create_folder(folder / "file/inner"), Error);
}

TEST(Durable, FilesAreNewOrReplacedWhole) {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  write_new_file(path, "one");
  EXPECT_THROW(write_new_file(path, "two"), Error);
  EXPECT_EQ(testing::file_text(path), "one");
  replace_file(path, "two");
  EXPECT_EQ(testing::file_text(path), "two");
  EXPECT_FALSE(path_exists(path + ".tmp"));
  // What cannot be replaced stays, and so does nothing temporary.
  fs::create_directories(folder / "busy/inner");
  EXPECT_THROW(replace_file(folder / "busy", "x"), Error);
  EXPECT_TRUE(path_exists(folder / "busy/inner"));
  EXPECT_FALSE(path_exists(folder / "busy.tmp"));
}

TEST(Durable, ReadsSayWhetherTheFileWasLongEnough) {
  const TemporaryFolder folder;
  write_new_file(folder / "file", "0123456789");
  const OpenFile file(folder / "file", O_RDONLY);
  char text[5] = {};
  EXPECT_EQ(file.bytes(), 10U);
  EXPECT_TRUE(file.read(text, 4, 6));
  EXPECT_STREQ(text, "6789");
  EXPECT_FALSE(file.read(text, 4, 7));
  EXPECT_THROW(OpenFile(folder / "none", O_RDONLY), Error);
}

TEST(Durable, PathsAreSwappedInOneStep) {
  const TemporaryFolder folder;
  write_new_file(folder / "a", "a");
  write_new_file(folder / "b", "b");
  if (!exchange_paths(folder / "a", folder / "b")) {
    GTEST_SKIP() << "this file system cannot swap names";
  }
  EXPECT_EQ(testing::file_text(folder / "a"), "b");
  EXPECT_EQ(testing::file_text(folder / "b"), "a");
  EXPECT_FALSE(exchange_paths(folder / "a", folder / "none"));
}

TEST(Digest, IsXxh3With128Bits) {
  // From python-xxhash, xxh3_128_hexdigest.
  EXPECT_EQ(digest_of(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(digest_of("sidewinder"), "8a98a876025b68d678f29c711ea074d2");
  const std::string text(300000, 'x');
  Digest pieces;
  for (size_t i = 0; i < text.size(); i += 1001) {
    pieces.update(std::string_view(text).substr(i, 1001));
  }
  EXPECT_EQ(pieces.text(), digest_of(text));
}

}  // namespace
}  // namespace sidewinder
