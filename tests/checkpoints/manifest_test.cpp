#include "checkpoints/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <functional>

#include "checkpoints/store.h"
#include "kernels/base/digest.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;

const std::string kDigest(32, 'a');

Manifest sample() {
  Manifest manifest;
  manifest.step = 12;
  manifest.files = {{"rank-0000.h5", 1000, kDigest}};
  manifest.tensors = {{"a", Dtype::f32, {2, 3}, "rank-0000.h5", 100, 24, kDigest},
                      {"b", Dtype::bf16, {}, "rank-0000.h5", 124, 2, kDigest},
                      {"c", Dtype::i32, {0}, "rank-0000.h5", 0, 0, kDigest}};
  manifest.state = R"({"z":1,"a":{"b":[1,2.5,null]}})";
  return manifest;
}

std::string message_of(const std::string& text) {
  try {
    Manifest::parse(text, "FILE");
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("FILE: "));
    return error.what();
  }
  return "(nothing thrown)";
}

// A manifest whose digest is right, so that what is behind the digest is tested.
std::string sealed(const std::string& body) {
  return body + ",\n\"digest\": \"" + digest_of(body) + "\"\n}\n";
}

std::string changed(const std::function<void(nlohmann::ordered_json&)>& change) {
  auto json = nlohmann::ordered_json::parse(sample().text());
  json.erase("digest");
  change(json);
  const std::string text = json.dump();
  return sealed(text.substr(0, text.size() - 1));
}

TEST(Manifest, TextAndBackIsTheSame) {
  const std::string text = sample().text();
  const Manifest manifest = Manifest::parse(text, "FILE");
  EXPECT_EQ(manifest.text(), text);
  EXPECT_EQ(manifest.step, 12);
  EXPECT_EQ(manifest.state, sample().state);
  EXPECT_EQ(manifest.tensors[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(manifest.tensors[1].dtype, Dtype::bf16);
}

TEST(Manifest, DamageBeforeParsing) {
  EXPECT_THAT(message_of(""), HasSubstr("too short"));
  EXPECT_THAT(message_of(std::string(1000, '\0')), HasSubstr("does not end with a digest"));
  std::string text = sample().text();
  text[5] ^= 4;
  EXPECT_THAT(message_of(text), HasSubstr("its bytes have digest"));
}

TEST(Manifest, EveryNumberIsCheckedAgainstTheOthers) {
  using Json = nlohmann::ordered_json;
  const auto tensor = [](size_t i, const char* key, const Json& value) {
    return changed([&](Json& json) { json["tensors"][i][key] = value; });
  };
  const auto file = [](const char* key, const Json& value) {
    return changed([&](Json& json) { json["files"][0][key] = value; });
  };
  const auto top = [](const char* key, const Json& value) {
    return changed([&](Json& json) { json[key] = value; });
  };
  EXPECT_EQ(message_of(changed([](Json&) {})), "(nothing thrown)");
  EXPECT_THAT(message_of(sealed("{\"format\": ")), HasSubstr("not a JSON object"));
  EXPECT_THAT(message_of(top("format", "other")), HasSubstr("has format 'other'"));
  EXPECT_THAT(message_of(top("version", 2)), HasSubstr("has format version 2"));
  EXPECT_THAT(message_of(top("version", "1")), HasSubstr("version is \"1\""));
  EXPECT_THAT(message_of(top("step", -1)), HasSubstr("step is -1"));
  EXPECT_THAT(message_of(top("step", 1.5)), HasSubstr("step is 1.5"));
  EXPECT_THAT(message_of(top("step", uint64_t{1} << 63)), HasSubstr("step is 9223372036854775808"));
  EXPECT_THAT(message_of(top("state", "x")), HasSubstr("state is not an object"));
  EXPECT_THAT(message_of(top("files", 3)), HasSubstr("files is not a list"));
  EXPECT_THAT(message_of(top("tensors", Json::array({1}))),
              HasSubstr("entry that is not an object"));
  EXPECT_THAT(message_of(changed([](Json& json) { json.erase("state"); })),
              HasSubstr("state is missing"));
  for (const char* name : {"", "../x", "/etc/passwd", "a/b", ".hidden", "manifest.json"}) {
    EXPECT_THAT(message_of(file("name", name)), HasSubstr("not the name of a file")) << name;
  }
  EXPECT_THAT(message_of(file("name", std::string("a\0b", 3))),
              HasSubstr("not the name of a file"));
  EXPECT_THAT(message_of(file("digest", "A" + kDigest.substr(1))), HasSubstr("32 hexadecimal"));
  EXPECT_THAT(message_of(file("bytes", 125)), HasSubstr("tensor b lies outside"));
  EXPECT_THAT(message_of(changed([](Json& json) { json["files"].push_back(json["files"][0]); })),
              HasSubstr("listed twice"));
  EXPECT_THAT(message_of(tensor(0, "file", "other.h5")), HasSubstr("which is not listed"));
  EXPECT_THAT(message_of(tensor(0, "dtype", "f16")), HasSubstr("'f16' is not an element type"));
  EXPECT_THAT(message_of(tensor(0, "dtype", "f64")), HasSubstr("24 bytes do not fit"));
  EXPECT_THAT(message_of(tensor(0, "shape", {2, 2})), HasSubstr("24 bytes do not fit"));
  EXPECT_THAT(message_of(tensor(0, "shape", {int64_t{1} << 40, int64_t{1} << 40})),
              HasSubstr("24 bytes do not fit"));
  EXPECT_THAT(message_of(tensor(0, "shape", {1, 1, 1, 1, 6})), HasSubstr("at most 4 sizes"));
  EXPECT_THAT(message_of(tensor(0, "shape", {-2, -3})), HasSubstr("shape is -2"));
  EXPECT_THAT(message_of(tensor(0, "offset", 977)), HasSubstr("lies outside rank-0000.h5"));
  EXPECT_THAT(message_of(tensor(0, "offset", ~uint64_t{0} - 4)), HasSubstr("offset is"));
  EXPECT_THAT(message_of(tensor(0, "offset", 101)), HasSubstr("a and b overlap"));
  EXPECT_THAT(message_of(tensor(0, "name", "b")), HasSubstr("b is listed twice"));
  EXPECT_THAT(message_of(tensor(0, "name", "")), HasSubstr("a name of 0 bytes"));
}

TEST(Manifest, TensorDigestsTellApartWhatTheyCover) {
  const float data[] = {1, 2, 3, 4, 5, 6};
  const std::string reference = tensor_digest("a", Dtype::f32, {2, 3}, data, 24);
  EXPECT_NE(tensor_digest("b", Dtype::f32, {2, 3}, data, 24), reference);
  EXPECT_NE(tensor_digest("a", Dtype::i32, {2, 3}, data, 24), reference);
  EXPECT_NE(tensor_digest("a", Dtype::f32, {3, 2}, data, 24), reference);
  EXPECT_NE(tensor_digest("a", Dtype::f32, {6}, data, 24), reference);
  const float other[] = {1, 2, 3, 4, 5, -6};
  EXPECT_NE(tensor_digest("a", Dtype::f32, {2, 3}, other, 24), reference);
}

// docs/formats.md is the definition; its example must be what the code writes and reads.
std::string documented_manifest() {
  const std::string page =
      testing::file_text(std::string(SIDEWINDER_SOURCE_DIR) + "/docs/formats.md");
  const std::string begin = "```json\n{\n\"format\": \"sidewinder-checkpoint\"";
  const size_t from = page.find(begin);
  const size_t to = page.find("```", from + begin.size());
  if (from == std::string::npos || to == std::string::npos) return "";
  return page.substr(from + 8, to - from - 8);
}

std::vector<std::string> keys_of(const nlohmann::ordered_json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

TEST(Manifest, TheDocumentedExampleIsWhatIsWritten) {
  const std::string documented = documented_manifest();
  const Manifest manifest = Manifest::parse(documented, "docs/formats.md");
  EXPECT_EQ(manifest.text(), documented);

  CheckpointContent content;
  content.step = 1000;
  content.tensors = {
      {"model/norm.weight", Tensor::from<float>({2}, {0.5F, 1.5F})},
      {"model/head.weight", Tensor::from<float>({2, 3}, {1, 2, 3, 4, 5, 6}).to(Dtype::bf16)}};
  content.state = R"({"step": 1000, "cursor": "7"})";
  const testing::TemporaryFolder folder;
  Store(folder.path()).save(content, {});
  const std::string written = testing::file_text(folder / "step-000001000/manifest.json");
  const auto a = nlohmann::ordered_json::parse(documented);
  const auto b = nlohmann::ordered_json::parse(written);
  EXPECT_EQ(keys_of(a), keys_of(b));
  EXPECT_EQ(keys_of(a["files"][0]), keys_of(b["files"][0]));
  // Offsets and file digests may differ between releases of the HDF5 library; nothing else may.
  for (const auto& json : {a, b}) EXPECT_EQ(json["tensors"].size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    auto left = a["tensors"][i];
    auto right = b["tensors"][i];
    EXPECT_EQ(keys_of(left), keys_of(right));
    left.erase("offset");
    right.erase("offset");
    EXPECT_EQ(left, right);
  }
  EXPECT_EQ(a["state"], b["state"]);
}

}  // namespace
}  // namespace sidewinder
