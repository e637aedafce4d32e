#include "kernels/base/hdf5_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <thread>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;

class Hdf5File : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "sidewinder-hdf5-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ / "file.h5";
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
  std::string path_;
};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "(nothing thrown)";
}

template <typename T>
void write_one(Hdf5Writer& writer, const std::string& name, Hdf5Type type,
               const std::vector<T>& values) {
  const std::vector<uint64_t> shape = {values.size()};
  writer.write(name, type, shape, values.data());
}

template <typename T>
std::vector<T> read_all(const Hdf5Reader& reader, const std::string& name) {
  std::vector<T> values(reader.dataset(name).bytes / sizeof(T));
  reader.read(name, values.data(), values.size() * sizeof(T));
  return values;
}

TEST_F(Hdf5File, KeepsEveryTypeShapeAndAttribute) {
  const std::vector<uint8_t> bytes = {1, 2, 255};
  const std::vector<uint16_t> halves = {0x3f80, 0xffff};
  const std::vector<int32_t> integers = {-7, 0, 7, 11, 13, 17};
  const std::vector<uint32_t> words = {0xdeadbeef};
  const std::vector<uint64_t> longs = {~uint64_t{0}, 1};
  const std::vector<float> floats = {1.5F, -0.0F, 3e38F};
  const std::vector<double> doubles = {1e-300, 2.0};
  const std::string long_text(200000, 'x');
  {
    Hdf5Writer writer(path_);
    write_one(writer, "a/bytes", Hdf5Type::u8, bytes);
    write_one(writer, "a/b/halves", Hdf5Type::u16, halves);
    writer.write("integers", Hdf5Type::i32, std::vector<uint64_t>{2, 1, 3}, integers.data());
    write_one(writer, "words", Hdf5Type::u32, words);
    write_one(writer, "longs", Hdf5Type::u64, longs);
    write_one(writer, "floats", Hdf5Type::f32, floats);
    write_one(writer, "doubles", Hdf5Type::f64, doubles);
    writer.write("none", Hdf5Type::f32, std::vector<uint64_t>{5, 0, 3}, nullptr);
    writer.write("scalar", Hdf5Type::f64, {}, doubles.data());
    writer.attribute("format", "sidewinder-test, naïve");
    writer.attribute("empty", "");
    writer.attribute("long", long_text);
    writer.attribute("count", ~uint64_t{0});
    writer.close();
  }
  const Hdf5Reader reader(path_);
  EXPECT_EQ(read_all<uint8_t>(reader, "a/bytes"), bytes);
  EXPECT_EQ(read_all<uint16_t>(reader, "a/b/halves"), halves);
  EXPECT_EQ(read_all<int32_t>(reader, "integers"), integers);
  EXPECT_EQ(read_all<uint32_t>(reader, "words"), words);
  EXPECT_EQ(read_all<uint64_t>(reader, "longs"), longs);
  EXPECT_EQ(read_all<float>(reader, "floats"), floats);
  EXPECT_EQ(read_all<double>(reader, "doubles"), doubles);
  EXPECT_EQ(read_all<double>(reader, "scalar"), std::vector<double>{doubles[0]});
  EXPECT_TRUE(read_all<float>(reader, "none").empty());
  EXPECT_EQ(reader.dataset("none").shape, (std::vector<uint64_t>{5, 0, 3}));
  EXPECT_TRUE(reader.dataset("scalar").shape.empty());
  EXPECT_EQ(reader.dataset("integers").shape, (std::vector<uint64_t>{2, 1, 3}));
  EXPECT_EQ(reader.text_attribute("format"), "sidewinder-test, naïve");
  EXPECT_EQ(reader.text_attribute("empty"), "");
  EXPECT_EQ(reader.text_attribute("long"), long_text);
  EXPECT_EQ(reader.number_attribute("count"), ~uint64_t{0});
  EXPECT_TRUE(reader.has("a/b/halves"));
  EXPECT_FALSE(reader.has("a/c/halves"));
  EXPECT_FALSE(reader.has_attribute("other"));
}

TEST_F(Hdf5File, BytesLieAlignedAtTheRecordedOffset) {
  Hdf5Writer writer(path_);
  for (int i = 0; i < 20; ++i) {
    std::vector<float> values(static_cast<size_t>(i * 379 + 1));
    std::iota(values.begin(), values.end(), static_cast<float>(i));
    write_one(writer, "tensor" + std::to_string(i), Hdf5Type::f32, values);
  }
  writer.close();
  std::ifstream file(path_, std::ios::binary);
  const Hdf5Reader reader(path_);
  for (int i = 0; i < 20; ++i) {
    const Hdf5Dataset dataset = reader.dataset("tensor" + std::to_string(i));
    EXPECT_EQ(dataset.file_offset % 4096, 0U) << dataset.name;
    std::vector<float> raw(dataset.bytes / sizeof(float));
    file.seekg(static_cast<std::streamoff>(dataset.file_offset));
    file.read(reinterpret_cast<char*>(raw.data()), static_cast<std::streamsize>(dataset.bytes));
    EXPECT_EQ(raw, read_all<float>(reader, dataset.name)) << dataset.name;
  }
}

TEST_F(Hdf5File, SameContentGivesTheSameBytes) {
  std::string first;
  for (int i = 0; i < 2; ++i) {
    const std::string path = path_ + std::to_string(i);
    Hdf5Writer writer(path);
    write_one(writer, "a/b/x", Hdf5Type::f32, std::vector<float>{1, 2, 3});
    writer.attribute("format", "test");
    writer.close();
    if (i == 0) sleep(1);
    std::ifstream file(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), {});
    if (i == 0) first = bytes;
    EXPECT_TRUE(bytes == first);
  }
}

TEST_F(Hdf5File, AnUnfinishedFileIsRemoved) {
  {
    Hdf5Writer writer(path_);
    write_one(writer, "x", Hdf5Type::u8, std::vector<uint8_t>{1});
  }
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(Hdf5File, AnExitInTheMiddleLeavesAFileThatDoesNotOpen) {
  const pid_t child = fork();
  if (child == 0) {
    static Hdf5Writer* const writer = new Hdf5Writer(path_);  // never destroyed
    write_one(*writer, "x", Hdf5Type::u8, std::vector<uint8_t>{1});
    exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(fs::exists(path_));
  EXPECT_THAT(message_of([&] { const Hdf5Reader reader(path_); }),
              ::testing::HasSubstr(path_ + ": cannot open the file: "));
}

TEST_F(Hdf5File, ErrorsNameTheFileAndTheReason) {
  std::ofstream(path_) << "text";
  EXPECT_THAT(message_of([&] { const Hdf5Writer writer(path_); }),
              ::testing::AllOf(::testing::HasSubstr(path_ + ": cannot create the file: "),
                               ::testing::HasSubstr("File exists")));
  EXPECT_THAT(message_of([&] { const Hdf5Reader reader(path_); }),
              ::testing::AllOf(::testing::HasSubstr(path_ + ": cannot open the file: "),
                               ::testing::HasSubstr("signature not found")));
  EXPECT_THAT(message_of([&] { const Hdf5Reader reader(path_ + ".none"); }),
              ::testing::HasSubstr("file.h5.none: cannot open the file: No such file"));
  const std::string other = (folder_ / "other.h5").string();
  Hdf5Writer writer(other);
  write_one(writer, "x", Hdf5Type::u8, std::vector<uint8_t>{1});
  EXPECT_THAT(message_of([&] { write_one(writer, "x", Hdf5Type::u8, std::vector<uint8_t>{1}); }),
              ::testing::AllOf(::testing::HasSubstr(other + ": cannot create dataset x: "),
                               ::testing::HasSubstr("already exists")));
  EXPECT_THAT(message_of([&] { write_one(writer, "/x", Hdf5Type::u8, std::vector<uint8_t>{1}); }),
              ::testing::HasSubstr("'/x' cannot name a dataset"));
  writer.attribute("number", uint64_t{3});
  writer.close();
  const Hdf5Reader reader(other);
  uint8_t byte = 0;
  EXPECT_THAT(message_of([&] { reader.read("y", &byte, 1); }),
              ::testing::HasSubstr("there is no dataset y"));
  EXPECT_THAT(message_of([&] { reader.read("x", &byte, 2); }),
              ::testing::HasSubstr("dataset x has 1 bytes where 2 are expected"));
  EXPECT_THAT(message_of([&] { reader.text_attribute("number"); }),
              ::testing::HasSubstr("attribute number is not a text of fixed length"));
  EXPECT_THAT(message_of([&] { reader.text_attribute("none"); }),
              ::testing::HasSubstr("there is no attribute none"));
}

TEST_F(Hdf5File, NothingIsPrintedByTheLibrary) {
  ::testing::internal::CaptureStderr();
  message_of([&] { const Hdf5Reader reader(path_); });
  std::ofstream(path_) << "text";
  message_of([&] { const Hdf5Reader reader(path_); });
  std::thread([&] { message_of([&] { const Hdf5Reader reader(path_); }); }).join();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

// The child has a file-size limit, which the system reports like a full disk.
TEST_F(Hdf5File, AFullDiskIsAnErrorAndLeavesNoFile) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {100000, 100000};
    setrlimit(RLIMIT_FSIZE, &limit);
    const std::vector<float> values(100000, 1.0F);
    try {
      Hdf5Writer writer(path_);
      write_one(writer, "x", Hdf5Type::f32, values);
      writer.close();
    } catch (const Error& error) {
      const std::string expected = path_ + ": cannot write dataset x: File too large";
      _exit(error.what() == expected ? 3 : 4);
    }
    _exit(5);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 3);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(Hdf5File, ATruncatedFileDoesNotOpen) {
  {
    Hdf5Writer writer(path_);
    write_one(writer, "x", Hdf5Type::f32, std::vector<float>(5000, 1.0F));
    writer.close();
  }
  fs::resize_file(path_, fs::file_size(path_) - 1);
  EXPECT_THAT(message_of([&] { const Hdf5Reader reader(path_); }),
              ::testing::HasSubstr("truncated file"));
}

TEST_F(Hdf5File, ChunkedDatasetsAndForeignTypesAreRefused) {
  const hid_t file = H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t size = 8;
  const hid_t space = H5Screate_simple(1, &size, nullptr);
  const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(chunked, 1, &size);
  H5Dclose(H5Dcreate2(file, "chunked", H5T_IEEE_F32LE, space, H5P_DEFAULT, chunked, H5P_DEFAULT));
  H5Dclose(
      H5Dcreate2(file, "big_endian", H5T_IEEE_F32BE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Lcreate_soft("/chunked", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Pclose(chunked);
  H5Sclose(space);
  H5Fclose(file);
  const Hdf5Reader reader(path_);
  EXPECT_THAT(message_of([&] { reader.dataset("chunked"); }),
              ::testing::HasSubstr("chunked is not one contiguous piece"));
  EXPECT_THAT(message_of([&] { reader.dataset("big_endian"); }),
              ::testing::HasSubstr("big_endian has an element type that is not used here"));
  EXPECT_FALSE(reader.has("soft"));
}

}  // namespace
}  // namespace sidewinder
