#include "checkpoints/huggingface/folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>

#include "kernels/base/error.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/huggingface_folder.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;
using testing::set_file_text;
using testing::TemporaryFolder;

TensorToStore tensor(const std::string& name, const std::string& bytes) {
  return {name, *find_element_type("U8"), {static_cast<int64_t>(bytes.size())}, [bytes] {
            return std::vector<char>(bytes.begin(), bytes.end());
          }};
}

constexpr const char* kFirst = "model-00001-of-00002.safetensors";
constexpr const char* kSecond = "model-00002-of-00002.safetensors";

void write_parts(const TemporaryFolder& folder, const Json& weight_map) {
  write_safetensors(folder / kFirst, {tensor("a", "1"), tensor("b", "22")}, {{"format", "pt"}});
  write_safetensors(folder / kSecond, {tensor("c", "333")}, {});
  set_file_text(folder / kWeightsIndex,
                Json{{"metadata", {{"total_size", 6}}}, {"weight_map", weight_map}}.dump());
}

std::string message_of(const TemporaryFolder& folder) {
  try {
    const WeightFiles files(folder.path());
  } catch (const Error& error) {
    const std::string text = error.what();
    const size_t at = text.find(folder.path() + "/");
    return at == 0 ? text.substr(folder.path().size() + 1) : text;
  }
  return "(nothing thrown)";
}

TEST(WeightFiles, LargeModelsAreWrittenInParts) {
  const TemporaryFolder folder;
  const std::vector<TensorToStore> tensors = {tensor("c", "333"), tensor("a", "1"),
                                              tensor("d", "55555"), tensor("b", "22")};
  write_weight_files(folder.path(), tensors, {{"format", "pt"}}, 4);
  const Json index = Json::parse(testing::file_text(folder / kWeightsIndex));
  // In the order given; a tensor that is too large has a file of its own.
  EXPECT_EQ(index["weight_map"], (Json{{"c", "model-00001-of-00003.safetensors"},
                                       {"a", "model-00001-of-00003.safetensors"},
                                       {"d", "model-00002-of-00003.safetensors"},
                                       {"b", "model-00003-of-00003.safetensors"}}));
  EXPECT_EQ(index["metadata"]["total_size"], 11);
  const WeightFiles files(folder.path());
  EXPECT_EQ(files.num_files(), 3U);
  EXPECT_EQ(files.read("d"), (std::vector<char>{'5', '5', '5', '5', '5'}));
  EXPECT_EQ(files.metadata().at("format"), "pt");

  const TemporaryFolder other;
  write_weight_files(other.path(), tensors, {}, 11);
  EXPECT_FALSE(std::filesystem::exists(other / kWeightsIndex));
  EXPECT_EQ(WeightFiles(other.path()).tensors().size(), 4U);
}

TEST(WeightFiles, PartsAreReadAsOne) {
  const TemporaryFolder folder;
  write_parts(folder, {{"a", kFirst}, {"b", kFirst}, {"c", kSecond}});
  const WeightFiles files(folder.path());
  EXPECT_EQ(files.num_files(), 2U);
  EXPECT_EQ(files.tensors().size(), 3U);
  EXPECT_EQ(files.read("c"), (std::vector<char>{'3', '3', '3'}));
  EXPECT_EQ(files.find("d"), nullptr);
  EXPECT_EQ(files.metadata().at("format"), "pt");
}

TEST(WeightFiles, AnIndexMustAgreeWithItsFiles) {
  const TemporaryFolder folder;
  const std::string index = kWeightsIndex;
  write_parts(folder, {{"a", kFirst}, {"b", kSecond}, {"c", kSecond}});
  EXPECT_EQ(message_of(folder), index + ": tensor b is not in " + kSecond + ", where it should be");
  write_parts(folder, {{"a", kFirst}, {"c", kSecond}});
  EXPECT_EQ(message_of(folder),
            index + ": tensor b is in " + (folder / kFirst) + " but not in the index");
  write_parts(folder, {{"a", kFirst}, {"b", kFirst}, {"c", kSecond}, {"d", kSecond}});
  EXPECT_EQ(message_of(folder), index + ": tensor d is not in " + kSecond + ", where it should be");
  write_parts(folder, {{"a", kFirst}, {"b", kFirst}, {"c", "model-3.safetensors"}});
  EXPECT_EQ(message_of(folder), index +
                                    ": model-3.safetensors is missing, in which its tensors "
                                    "should lie; get the whole model");
}

TEST(WeightFiles, AnIndexMayNotLeaveItsFolder) {
  const TemporaryFolder folder;
  for (const Json& path : {Json("../x.safetensors"), Json("/etc/passwd"), Json("sub/x"), Json(".."),
                           Json("a\\b"), Json(""), Json(7), Json(".hidden")}) {
    write_parts(folder, {{"a", kFirst}, {"b", kFirst}, {"c", path}});
    EXPECT_EQ(message_of(folder), std::string(kWeightsIndex) + ": tensor c lies in " + path.dump() +
                                      ", which does not name a file of this folder");
  }
}

TEST(WeightFiles, DuplicatesAreRefused) {
  const TemporaryFolder folder;
  write_parts(folder, {{"a", kFirst}, {"b", kFirst}, {"c", kSecond}});
  write_safetensors(folder / kSecond, {tensor("c", "333"), tensor("a", "1")}, {});
  EXPECT_EQ(message_of(folder),
            std::string(kSecond) + ": tensor a is in " + (folder / kFirst) + ", too");
  set_file_text(folder / kWeightsIndex, R"({"weight_map":{"a":"x","a":"y"}})");
  EXPECT_EQ(message_of(folder), std::string(kWeightsIndex) + ": has the key \"a\" twice");
  set_file_text(folder / kWeightsIndex, R"({"metadata":{}})");
  EXPECT_THAT(message_of(folder), HasSubstr("weight_map is missing"));
}

TEST(WeightFiles, FoldersWithoutSafetensorsSayWhatToDo) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of(folder),
              HasSubstr("has neither model.safetensors nor model.safetensors."));
  set_file_text(folder / "pytorch_model.bin", "x");
  EXPECT_THAT(message_of(folder),
              HasSubstr("has its weights as pytorch_model.bin, a pickle, which can run programs"));
}

TEST(WeightFiles, IntegersAreNoWeights) {
  const TemporaryFolder folder;
  write_safetensors(folder / kWeightsFile, {tensor("a", "1")}, {});
  const WeightFiles files(folder.path());
  int64_t rounded = 0;
  try {
    files.read_f32("a", &rounded);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("tensor a has elements of type U8; weights must be F32, BF"));
  }
}

TEST(HuggingFaceFolder, IsToldByItsConfig) {
  const TemporaryFolder folder;
  EXPECT_FALSE(is_huggingface_folder(folder.path()));
  set_file_text(folder / kConfigFile, "{}");
  EXPECT_TRUE(is_huggingface_folder(folder.path()));
  EXPECT_FALSE(is_huggingface_folder(folder / kConfigFile));
}

}  // namespace
}  // namespace sidewinder
