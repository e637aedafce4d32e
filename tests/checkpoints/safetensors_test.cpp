#include "checkpoints/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/base/philox.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using testing::file_text;
using ::testing::HasSubstr;
using testing::safetensors_bytes;
using testing::set_file_text;
using testing::TemporaryFolder;

constexpr const char* kGood = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                              R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]}})";

// What the reader says about a file of these bytes.
std::string message_of(const std::string& bytes) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  set_file_text(path, bytes);
  try {
    const SafetensorsFile file(path);
    return "(nothing thrown)";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    const std::string begin = path + ": not a sound safetensors file: ";
    const std::string text = error.what();
    EXPECT_EQ(text.substr(0, begin.size()), begin);
    return text.substr(std::min(text.size(), begin.size()));
  }
}

std::string message_of_header(const std::string& header, size_t data_bytes = 20) {
  return message_of(safetensors_bytes(header, std::string(data_bytes, 'x')));
}

// A file with one tensor `t`, whose entry is this.
std::string message_of_entry(const std::string& entry, size_t data_bytes = 8) {
  return message_of_header("{\"t\":" + entry + "}", data_bytes);
}

TEST(SafetensorsReader, AFileIsReadByNameAndInOrder) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  std::string data(20, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i);
  set_file_text(path, safetensors_bytes(std::string(kGood) + "   ", data));
  const SafetensorsFile file(path);
  ASSERT_EQ(file.tensors().size(), 2U);
  EXPECT_EQ(file.tensors()[1].name, "b");
  EXPECT_EQ(file.tensors()[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.tensors()[1].type.name, "BF16");
  const std::vector<char> bytes = file.read(*file.find("b"));
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), data.substr(8));
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(SafetensorsReader, ScalarsEmptyTensorsAndMetadataAreSound) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  set_file_text(
      path, safetensors_bytes(R"({"__metadata__":{"format":"pt"},)"
                              R"("z":{"dtype":"F32","shape":[4],"data_offsets":[4,20]},)"
                              R"("s":{"dtype":"I32","shape":[],"data_offsets":[0,4]},)"
                              R"("e":{"dtype":"F32","shape":[9007199254740992,0,9007199254740992],)"
                              R"("data_offsets":[4,4]}})",
                              std::string(20, 'x')));
  const SafetensorsFile file(path);
  EXPECT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.find("e")->count(), 0);
  EXPECT_EQ(file.find("s")->count(), 1);
  EXPECT_TRUE(file.read(*file.find("e")).empty());
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(SafetensorsReader, WrongHeaderLengthsAreRefused) {
  EXPECT_EQ(message_of(""), "it has 0 bytes, less than the 8 of its header's length");
  EXPECT_EQ(message_of("1234567"), "it has 7 bytes, less than the 8 of its header's length");
  const auto with_length = [](uint64_t length) {
    std::string bytes = safetensors_bytes(kGood, std::string(20, 'x'));
    std::memcpy(bytes.data(), &length, sizeof(length));
    return message_of(bytes);
  };
  EXPECT_THAT(with_length(10000),
              HasSubstr("its header would have 10000 bytes, but the file ends "));
  EXPECT_EQ(with_length(100000001),
            "its header would have 100000001 bytes, but at most 100000000 are allowed");
  EXPECT_THAT(with_length(~uint64_t{0}), HasSubstr("at most 100000000 are allowed"));
  EXPECT_EQ(with_length(0), "its header does not begin with a brace");
  EXPECT_THAT(with_length(40), HasSubstr("its header is not valid JSON at byte 4"));
}

TEST(SafetensorsReader, WrongJsonIsRefused) {
  EXPECT_EQ(message_of_header(" " + std::string(kGood)), "its header does not begin with a brace");
  EXPECT_EQ(message_of_header("[]"), "its header does not begin with a brace");
  EXPECT_THAT(message_of_header(std::string(kGood) + "}"),
              HasSubstr("its header is not valid JSON"));
  EXPECT_THAT(message_of_header("{\"a\":\"\xff\"}"), HasSubstr("its header is not valid JSON"));
  EXPECT_EQ(message_of_header("{\"a\":" + std::string(100000, '[') + "}"),
            "its header is nested more than 4 deep");
  const std::string entry = R"({"dtype":"F32","shape":[5],"data_offsets":[0,20]})";
  EXPECT_EQ(message_of_header("{\"a\":" + entry + ",\"a\":" + entry + "}"),
            "its header has the key \"a\" twice");
}

TEST(SafetensorsReader, WrongNamesAreRefused) {
  const std::string entry = R"({"dtype":"U8","shape":[20],"data_offsets":[0,20]})";
  EXPECT_EQ(message_of_header("{\"\":" + entry + "}"),
            "a tensor has a name of 0 bytes; 1 to 1024 are possible");
  EXPECT_EQ(message_of_header("{\"" + std::string(1025, 'n') + "\":" + entry + "}"),
            "a tensor has a name of 1025 bytes; 1 to 1024 are possible");
  EXPECT_EQ(message_of_header(R"({"a\u001bb":)" + entry + "}"),
            R"(the name "a\u001bb" has a control character)");
}

TEST(SafetensorsReader, WrongEntriesAreRefused) {
  EXPECT_EQ(message_of_entry("7"), "tensor t: its entry is not an object");
  EXPECT_EQ(message_of_entry(R"({"shape":[2],"data_offsets":[0,8]})"),
            "tensor t: dtype is missing");
  EXPECT_EQ(message_of_entry(R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})"),
            "tensor t: unknown dtype \"F31\"");
  EXPECT_EQ(message_of_entry(R"({"dtype":3,"shape":[2],"data_offsets":[0,8]})"),
            "tensor t: unknown dtype 3");
  EXPECT_EQ(message_of_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1})"),
            "tensor t: unknown key more: 1");
  EXPECT_EQ(message_of_entry(R"({"dtype":"F32","data_offsets":[0,8]})"),
            "tensor t: shape is missing");
}

TEST(SafetensorsReader, WrongShapesAreRefused) {
  const auto shape = [](const std::string& text) {
    return message_of_entry(R"({"dtype":"F32","shape":)" + text + R"(,"data_offsets":[0,8]})");
  };
  EXPECT_EQ(shape("2"), "tensor t: shape is 2 where a list of at most 8 sizes is needed");
  EXPECT_THAT(shape("[1,1,1,1,1,1,1,1,2]"), HasSubstr("a list of at most 8 sizes is needed"));
  EXPECT_EQ(shape("[-2]"), "tensor t: shape has -2 where a whole number up to 2^53 is needed");
  EXPECT_EQ(shape("[2.0]"), "tensor t: shape has 2.0 where a whole number up to 2^53 is needed");
  EXPECT_THAT(shape("[9007199254740993]"), HasSubstr("a whole number up to 2^53 is needed"));
  EXPECT_THAT(shape("[18446744073709551616]"), HasSubstr("a whole number up to 2^53 is needed"));
  EXPECT_EQ(shape("[4294967296,4294967296]"),
            "tensor t: shape [4294967296,4294967296] has more elements than can be counted");
  EXPECT_EQ(message_of_entry(R"({"dtype":"F4","shape":[3],"data_offsets":[0,8]})"),
            "tensor t: shape [3] of 4-bit elements ends within a byte");
}

TEST(SafetensorsReader, WrongOffsetsAreRefused) {
  const auto offsets = [](const std::string& text, size_t data_bytes = 8) {
    return message_of_entry(R"({"dtype":"F32","shape":[2],"data_offsets":)" + text + "}",
                            data_bytes);
  };
  EXPECT_EQ(offsets("[0,8]"), "(nothing thrown)");
  EXPECT_EQ(offsets("8"), "tensor t: data_offsets is 8 where [begin, end] is needed");
  EXPECT_EQ(offsets("[0,4]"), "tensor t: data_offsets [0,4] do not hold the 8 bytes of F32 [2]");
  EXPECT_EQ(offsets("[8,0]"), "tensor t: data_offsets [8,0] do not hold the 8 bytes of F32 [2]");
  EXPECT_EQ(offsets("[0.0,8]"),
            "tensor t: data_offsets has 0.0 where a whole number up to 2^53 is needed");
  EXPECT_EQ(offsets("[8,16]"), "tensor t ends at byte 16 of the data, which has 8");
  EXPECT_EQ(offsets("[0,8]", 7), "tensor t ends at byte 8 of the data, which has 7");
}

TEST(SafetensorsReader, HolesAndOverlapsAreRefused) {
  const auto two = [](const std::string& first, const std::string& second, size_t data_bytes) {
    return message_of_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                                 R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second +
                                 "}}",
                             data_bytes);
  };
  EXPECT_EQ(two("[4,8]", "[0,4]", 8), "(nothing thrown)");
  EXPECT_EQ(two("[0,4]", "[2,6]", 6), "tensor b begins at byte 2, where another one lies up to 4");
  EXPECT_EQ(two("[0,4]", "[0,4]", 4), "tensor b begins at byte 0, where another one lies up to 4");
  EXPECT_EQ(two("[0,4]", "[6,10]", 10),
            "bytes 4 to 5 of the data, before tensor b, belong to none");
  EXPECT_EQ(two("[1,5]", "[5,9]", 9), "bytes 0 to 0 of the data, before tensor a, belong to none");
  EXPECT_EQ(two("[0,4]", "[4,8]", 11), "the last 3 of 11 bytes of data belong to no tensor");
  EXPECT_EQ(message_of(safetensors_bytes("{}", "x")),
            "the last 1 of 1 bytes of data belong to no tensor");
}

TEST(SafetensorsReader, WrongMetadataIsRefused) {
  EXPECT_EQ(message_of_header(R"({"__metadata__":7})", 0), "__metadata__ is not an object");
  EXPECT_EQ(message_of_header(R"({"__metadata__":{"a":7}})", 0), "__metadata__: a is not a text");
}

TEST(SafetensorsReader, DamageIsRefusedOrChangesNothingElse) {
  const std::string sound = safetensors_bytes(kGood, std::string(20, 'x'));
  const Philox random(5, "damage");
  const TemporaryFolder folder;
  int refused = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    std::string bytes = sound;
    const size_t place = random.below(2 * i, 8 + std::string(kGood).size());
    bytes[place] = static_cast<char>(bytes[place] ^ 1 << random.below(2 * i + 1, 8));
    set_file_text(folder / "x", bytes);
    try {
      const SafetensorsFile file(folder / "x");
      // A changed name, dtype of the same size, or order; never elements out of the file.
      uint64_t total = 0;
      for (const StoredTensor& tensor : file.tensors()) total += file.read(tensor).size();
      EXPECT_EQ(total, 20U);
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.exit_code(), ExitCode::environment);
    }
  }
  EXPECT_GT(refused, 750);
}

TEST(SafetensorsReader, AFileThatShrinksWhileReadIsAnError) {
  const TemporaryFolder folder;
  set_file_text(folder / "x", safetensors_bytes(kGood, std::string(20, 'x')));
  const SafetensorsFile file(folder / "x");
  fs::resize_file(folder / "x", fs::file_size(folder / "x") - 5);
  try {
    file.read(*file.find("b"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("tensor b is cut off; the file changed while it was read"));
  }
}

TensorToStore tensor(const std::string& name, const char* type, std::vector<int64_t> shape,
                     const std::string& bytes) {
  return {name, *find_element_type(type), std::move(shape),
          [bytes] { return std::vector<char>(bytes.begin(), bytes.end()); }};
}

TEST(SafetensorsWriter, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  write_safetensors(path,
                    {tensor("b", "BF16", {3}, "112233"), tensor("z", "F32", {2}, "abcdefgh"),
                     tensor("a", "F32", {}, "wxyz"), tensor("empty", "F32", {0, 5}, "")},
                    {{"format", "pt"}});
  const SafetensorsFile file(path);
  std::vector<std::string> names;
  for (const StoredTensor& stored : file.tensors()) {
    names.push_back(stored.name);
    EXPECT_EQ(stored.begin * 8 % static_cast<uint64_t>(stored.type.bits), 0U);
  }
  // Wide elements first.
  EXPECT_EQ(names, (std::vector<std::string>{"a", "empty", "z", "b"}));
  EXPECT_EQ(file.read(*file.find("z")),
            (std::vector<char>{'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  // Elements begin on a page.
  EXPECT_EQ(fs::file_size(path), 4096 + 4 + 8 + 6);
  EXPECT_FALSE(fs::exists(path + ".tmp"));
}

TEST(SafetensorsWriter, TheSameTensorsGiveTheSameBytes) {
  const TemporaryFolder folder;
  write_safetensors(folder / "x", {tensor("b", "U8", {1}, "1"), tensor("a", "U8", {1}, "2")}, {});
  write_safetensors(folder / "y", {tensor("a", "U8", {1}, "2"), tensor("b", "U8", {1}, "1")}, {});
  EXPECT_EQ(file_text(folder / "x"), file_text(folder / "y"));
}

TEST(SafetensorsWriter, AFailureLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_safetensors(folder / "x", {tensor("a", "U8", {1}, "1")}, {});
  const std::string before = file_text(folder / "x");
  TensorToStore failing = tensor("a", "U8", {1}, "2");
  failing.bytes = []() -> std::vector<char> { fail_environment("no more"); };
  EXPECT_THROW(write_safetensors(folder / "x", {failing}, {}), Error);
  EXPECT_EQ(file_text(folder / "x"), before);
  EXPECT_FALSE(fs::exists(folder / "x.tmp"));
}

TEST(SafetensorsWriter, TwoTensorsOfOneNameAreRefused) {
  const TemporaryFolder folder;
  try {
    write_safetensors(folder / "x", {tensor("a", "U8", {1}, "1"), tensor("a", "U8", {1}, "1")}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("there are two tensors named a"));
  }
}

}  // namespace
}  // namespace sidewinder
