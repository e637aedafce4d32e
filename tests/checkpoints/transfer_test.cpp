#include "checkpoints/huggingface/transfer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "checkpoints/huggingface/llama.h"
#include "checkpoints/huggingface/mamba.h"
#include "kernels/base/error.h"
#include "tests/support/huggingface_folder.h"
#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::tensor_bytes;
using testing::tiny_llama_config;
using testing::tiny_mamba_config;
using testing::write_huggingface_folder;

TensorTable tiny_llama(const nlohmann::ordered_json& changes = {}) {
  return llama_tensors(read_llama_config(tiny_llama_config(changes), "test"));
}

TensorTable tiny_mamba() { return mamba_tensors(read_mamba_config(tiny_mamba_config(), "test")); }

std::map<std::string, Tensor> by_name(const std::vector<NamedTensor>& tensors) {
  std::map<std::string, Tensor> result;
  for (const NamedTensor& entry : tensors) {
    EXPECT_EQ(entry.name.substr(0, 6), "model/");
    result[entry.name.substr(6)] = entry.tensor;
  }
  return result;
}

// Gives the weights into another folder; returns the notes.
std::vector<std::string> give(const std::string& folder, const std::map<std::string, Tensor>& ours,
                              const TensorTable& table, const std::optional<Origin>& origin,
                              std::string_view type = {}) {
  std::vector<std::string> notes;
  GivenWeights given = give_weights(ours, table, origin, type,
                                    [&](const std::string& note) { notes.push_back(note); });
  std::filesystem::create_directories(folder);
  write_safetensors(folder + "/" + kWeightsFile, given.tensors, given.metadata);
  return notes;
}

std::string message_of(const std::string& folder, const TensorTable& table) {
  return testing::message_of([&] { take_weights(WeightFiles(folder), table); });
}

TEST(Transfer, PartsLieOneBelowTheOther) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder.path(), tiny_llama_config());
  const WeightFiles files(folder.path());
  const auto ours = by_name(take_weights(files, tiny_llama()).tensors);
  const Tensor& qkv = ours.at("blocks.1.mixer.qkv.weight");
  ASSERT_EQ(qkv.shape().text(), "[64, 32]");
  int64_t rounded = 0;
  int64_t at = 0;
  for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
    const Tensor theirs =
        files.read_f32(std::string("model.layers.1.self_attn.") + part + ".weight", &rounded);
    for (int64_t i = 0; i < theirs.count(); ++i, ++at) ASSERT_EQ(qkv.at(at), theirs.at(i)) << part;
  }
  EXPECT_EQ(at, qkv.count());
  EXPECT_EQ(ours.size(), 2U + 2 * 6 + 1);
}

TEST(Transfer, EveryTypeComesBackByteForByte) {
  for (const char* type : {"F32", "BF16", "F16"}) {
    const TemporaryFolder folder;
    write_huggingface_folder(folder / "llama", tiny_llama_config(), tiny_llama(), type,
                             {{"model.norm.weight", "F32"}});
    const TakenWeights llama = take_weights(WeightFiles(folder / "llama"), tiny_llama());
    EXPECT_TRUE(give(folder / "back", by_name(llama.tensors), tiny_llama(),
                     Origin::parse(llama.origin.json()))
                    .empty());
    EXPECT_EQ(tensor_bytes(folder / "back"), tensor_bytes(folder / "llama")) << type;
    write_huggingface_folder(folder / "mamba", tiny_mamba_config(), tiny_mamba(), type);
    const TakenWeights mamba = take_weights(WeightFiles(folder / "mamba"), tiny_mamba());
    give(folder / "mamba-back", by_name(mamba.tensors), tiny_mamba(), mamba.origin);
    EXPECT_EQ(tensor_bytes(folder / "mamba-back"), tensor_bytes(folder / "mamba")) << type;
  }
}

TEST(Transfer, ATiedHeadInTheFileComesBack) {
  const TemporaryFolder folder;
  const auto untied = tiny_llama();
  const auto tied = tiny_llama({{"tie_word_embeddings", true}});
  write_huggingface_folder(folder / "other", tiny_llama_config(), untied);
  EXPECT_EQ(head_in_file(WeightFiles(folder / "other"), untied), HeadInFile::other);
  write_huggingface_folder(folder / "absent", tiny_llama_config(), tied);
  EXPECT_EQ(head_in_file(WeightFiles(folder / "absent"), tied), HeadInFile::absent);
  TakenWeights weights = take_weights(WeightFiles(folder / "absent"), tied);
  EXPECT_FALSE(weights.origin.has_tied_head);
  weights.origin.has_tied_head = true;
  give(folder / "tied", by_name(weights.tensors), tied, weights.origin);
  EXPECT_EQ(head_in_file(WeightFiles(folder / "tied"), tied), HeadInFile::like_embedding);
  weights = take_weights(WeightFiles(folder / "tied"), tied);
  EXPECT_TRUE(weights.origin.has_tied_head);
  give(folder / "back", by_name(weights.tensors), tied, Origin::parse(weights.origin.json()));
  EXPECT_EQ(tensor_bytes(folder / "back"), tensor_bytes(folder / "tied"));
}

TEST(Transfer, WrappersInFrontOfNamesComeBack) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder / "plain", tiny_mamba_config());
  TakenWeights weights = take_weights(WeightFiles(folder / "plain"), tiny_mamba());
  weights.origin.prefix = "module.";
  give(folder / "wrapped", by_name(weights.tensors), tiny_mamba(), weights.origin);
  weights = take_weights(WeightFiles(folder / "wrapped"), tiny_mamba());
  EXPECT_EQ(weights.origin.prefix, "module.");
  give(folder / "back", by_name(weights.tensors), tiny_mamba(), weights.origin);
  EXPECT_EQ(tensor_bytes(folder / "back"), tensor_bytes(folder / "wrapped"));
}

TEST(Transfer, DifferencesAreListedOnBothSides) {
  const TemporaryFolder folder;
  TensorTable table = tiny_llama();
  table.rules[1].parts[0].name = "model.layers.0.extra.weight";
  table.rules.back().parts[0].shape = {255, 32};
  write_huggingface_folder(folder.path(), tiny_llama_config(), table);
  EXPECT_EQ(message_of(folder.path(), tiny_llama()),
            "the weights do not fit config.json:\n"
            "    missing (1):\n"
            "        model.layers.0.input_layernorm.weight [32]\n"
            "    of another shape (1):\n"
            "        lm_head.weight: [255, 32] in the file, [256, 32] by config.json\n"
            "    not known (1):\n"
            "        model.layers.0.extra.weight [32]");
  EXPECT_THAT(message_of(folder.path(), tiny_llama({{"num_hidden_layers", 4}})),
              HasSubstr("model.layers.2.mlp.gate_proj.weight [48, 32]\n        and 11 more"));
}

TEST(Transfer, FrequenciesOfOldFilesAreLeftOutAndNamed) {
  const TemporaryFolder folder;
  TensorTable table = tiny_llama();
  table.rules.push_back({"x", {4}, {{"model.layers.0.self_attn.rotary_emb.inv_freq", {4}}}, false});
  write_huggingface_folder(folder.path(), tiny_llama_config(), table);
  const TakenWeights weights = take_weights(WeightFiles(folder.path()), tiny_llama());
  EXPECT_THAT(weights.notes, ::testing::ElementsAre("1 rotary_emb.inv_freq tensors are left out: "
                                                    "they follow from config.json"));
}

TEST(Transfer, TypesOfNewFilesAreChosen) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder / "from", tiny_mamba_config());
  const auto ours = by_name(take_weights(WeightFiles(folder / "from"), tiny_mamba()).tensors);
  give(folder / "new", ours, tiny_mamba(), std::nullopt);
  EXPECT_EQ(tensor_bytes(folder / "new"), tensor_bytes(folder / "from"));  // F32
  const auto notes = give(folder / "half", ours, tiny_mamba(), std::nullopt, "BF16");
  EXPECT_THAT(notes, ::testing::Contains(HasSubstr("elements rounded to BF16")));
  const WeightFiles half(folder / "half");
  EXPECT_EQ(half.find("backbone.embeddings.weight")->type.name, "BF16");
  EXPECT_EQ(half.find("backbone.layers.0.mixer.A_log")->type.name, "F32");
  EXPECT_EQ(half.find("backbone.layers.0.mixer.D")->type.name, "F32");
}

TEST(Transfer, DecayRatesAreNotRoundedOnceTrained) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder / "from", tiny_mamba_config(), "BF16");
  TakenWeights weights = take_weights(WeightFiles(folder / "from"), tiny_mamba());
  auto ours = by_name(weights.tensors);
  for (const char* name : {"blocks.0.mixer.A_log", "blocks.0.mixer.in_proj.weight"}) {
    ours.at(name).data<float>()[3] += 1e-5F;
  }
  give(folder / "back", ours, tiny_mamba(), weights.origin);
  const WeightFiles back(folder / "back");
  EXPECT_EQ(back.find("backbone.layers.0.mixer.A_log")->type.name, "F32");
  EXPECT_EQ(back.find("backbone.layers.1.mixer.A_log")->type.name, "BF16");
  EXPECT_EQ(back.find("backbone.layers.0.mixer.in_proj.weight")->type.name, "BF16");
}

TEST(Transfer, ElementsTooLargeForTheirTypeAreRefused) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder / "from", tiny_llama_config());
  auto ours = by_name(take_weights(WeightFiles(folder / "from"), tiny_llama()).tensors);
  ours.at("final_norm.weight").data<float>()[0] = 1e6F;
  try {
    give(folder / "to", ours, tiny_llama(), std::nullopt, "F16");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "tensor model.norm.weight has 1 elements that are too large for F16; write it as "
                 "F32 or BF16");
  }
}

TEST(Transfer, AnOriginThatCannotBeReadIsAnError) {
  EXPECT_FALSE(Origin::parse("").has_value());
  EXPECT_FALSE(Origin::parse("null").has_value());
  EXPECT_THROW(Origin::parse(R"({"config":7})"), Error);
}

}  // namespace
}  // namespace sidewinder
