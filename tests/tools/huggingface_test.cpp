#include "tools/huggingface.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

#include "tests/support/huggingface_folder.h"
#include "tests/support/message_of.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;
using testing::message_of;
using testing::TemporaryFolder;
using testing::tiny_llama_config;
using testing::tiny_mamba_config;
using testing::write_huggingface_folder;

Recipe recipe_in(const CheckpointContent& content) {
  return parse_recipe(Json::parse(content.state)["recipe"].get<std::string>(), "stored");
}

Origin origin_in(const CheckpointContent& content) {
  return *Origin::parse(Json::parse(content.state)["origin"].dump());
}

ModelOptions small(const BlockOptions& block) {
  ModelOptions model;
  model.width = 32;
  model.vocabulary = 256;
  model.layers = "x";
  model.repeat = 2;
  model.blocks["x"] = block;
  return model;
}

BlockOptions attention_block() {
  BlockOptions block;
  block.mixer = MixerKind::attention;
  block.head_width = 8;
  return block;
}

BlockOptions mamba_block() {
  BlockOptions block;
  block.feed_forward = FeedForwardKind::none;
  return block;
}

// The config that a model of ours gets.
Json fresh_config(const ModelOptions& model, int64_t context = 128) {
  Recipe recipe;
  recipe.model = model;
  recipe.train.context = context;
  return Json::parse(foreign_model(recipe, std::nullopt, {}).config);
}

std::string refusal_of(const ModelOptions& model) {
  return message_of([&] { fresh_config(model); });
}

TEST(HuggingFaceImport, ALlamaBecomesOneKindOfBlock) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder.path(),
                           tiny_llama_config({{"head_dim", 16}, {"rope_theta", 5e5}}));
  const CheckpointContent content = import_huggingface(folder.path());
  EXPECT_EQ(content.step, 0);
  const Recipe recipe = recipe_in(content);
  EXPECT_EQ(recipe.model.layers, "a");
  EXPECT_EQ(recipe.model.repeat, 2);
  EXPECT_EQ(recipe.model.max_context, 64);
  EXPECT_FALSE(recipe.model.tied_embeddings);
  EXPECT_EQ(recipe.train.context, 64);
  EXPECT_EQ(recipe.train.precision, Precision::f32);
  const BlockOptions& block = recipe.model.blocks.at("a");
  EXPECT_EQ(block.pattern, PatternKind::full);
  EXPECT_EQ(block.heads, 4);
  EXPECT_EQ(block.key_value_heads, 2);
  EXPECT_EQ(block.head_width, 16);
  EXPECT_EQ(block.rope_base, 5e5);
  EXPECT_EQ(block.hidden, 48);
  const std::unique_ptr<HybridModel> model = make_model(recipe);
  load_weights(*model, content, "import");
  EXPECT_EQ(content.tensors.size(), 15U);
}

TEST(HuggingFaceImport, AMistralHasAWindowAndBfloat16Precision) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder.path(), tiny_llama_config({{"model_type", "mistral"},
                                                             {"sliding_window", 16},
                                                             {"torch_dtype", "bfloat16"}}));
  const Recipe recipe = recipe_in(import_huggingface(folder.path()));
  EXPECT_EQ(recipe.model.blocks.at("a").pattern, PatternKind::window);
  EXPECT_EQ(recipe.model.blocks.at("a").window, 16);
  EXPECT_EQ(recipe.train.precision, Precision::bf16);
}

TEST(HuggingFaceImport, AMambaHasNoFeedForward) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder.path(), tiny_mamba_config());
  const CheckpointContent content = import_huggingface(folder.path());
  const Recipe recipe = recipe_in(content);
  EXPECT_EQ(recipe.model.blocks.at("m").feed_forward, FeedForwardKind::none);
  EXPECT_EQ(recipe.model.blocks.at("m").state, 4);
  EXPECT_EQ(recipe.model.blocks.at("m").dt_rank, 3);
  load_weights(*make_model(recipe), content, "import");
}

TEST(HuggingFaceImport, OtherFamiliesAreNamed) {
  const TemporaryFolder folder;
  const auto with = [&](const Json& config) {
    std::ofstream(folder / "config.json") << config.dump();
    return message_of([&] { import_huggingface(folder.path()); });
  };
  EXPECT_THAT(
      with({{"model_type", "qwen2"}}),
      HasSubstr("config.json: model_type: \"qwen2\"; models of type llama, mistral and mamba"));
  EXPECT_THAT(with({{"hidden_size", 3}}), HasSubstr("config.json: model_type: missing; models of"));
  EXPECT_THAT(
      with({{"d_model", 768}, {"n_layer", 24}}),
      HasSubstr("is of the original Mamba program, not of Hugging Face; take the model whose"));
}

TEST(HuggingFaceImport, AHeadThatIsNotTheEmbeddingIsTakenAlthoughTied) {
  const TemporaryFolder folder;
  const Json tied = tiny_llama_config({{"tie_word_embeddings", true}});
  write_huggingface_folder(folder.path(), tiny_llama_config());  // with a head of its own
  std::ofstream(folder / "config.json") << tied.dump();
  const CheckpointContent content = import_huggingface(folder.path());
  EXPECT_FALSE(recipe_in(content).model.tied_embeddings);
  std::filesystem::create_directories(folder / "back");
  export_huggingface(content, folder / "back", {});
  EXPECT_EQ(testing::tensor_bytes(folder / "back"), testing::tensor_bytes(folder.path()));
  Json expected = tied;
  expected["tie_word_embeddings"] = false;
  EXPECT_EQ(Json::parse(testing::read_file(folder / "back/config.json")), expected);
}

TEST(HuggingFaceTokenizer, IsFoundOrAskedFor) {
  const TemporaryFolder folder;
  EXPECT_TRUE(huggingface_tokenizer(folder.path(), "", 256)->is_bytes());
  EXPECT_TRUE(huggingface_tokenizer(folder.path(), "bytes", 300)->is_bytes());
  EXPECT_THAT(message_of([&] { huggingface_tokenizer(folder.path(), "", 300); }),
              HasSubstr("has no tokenizer.model; pass --tokenizer FILE"));
  EXPECT_THAT(
      message_of([&] { huggingface_tokenizer(folder.path(), "bytes", 255); }),
      HasSubstr("bytes: has 256 ids but the model's vocabulary is 255; it is another model's"));
  std::ofstream(folder / "tokenizer.json") << "{}";
  EXPECT_THAT(message_of([&] { huggingface_tokenizer(folder.path(), "", 50280); }),
              HasSubstr("has its tokenizer as tokenizer.json, which cannot be read yet, only"));
}

TEST(HuggingFaceExport, AnUntouchedConfigIsTheSameText) {
  for (const Json& config :
       {tiny_llama_config({{"use_cache", true}, {"pretraining_tp", 1}, {"rope_scaling", nullptr}}),
        tiny_llama_config({{"model_type", "mistral"}, {"sliding_window", 8}}),
        tiny_mamba_config({{"time_step_rank", "auto"}, {"time_step_min", 0.01}})}) {
    const TemporaryFolder folder;
    write_huggingface_folder(folder / "from", config, "BF16");
    std::filesystem::create_directories(folder / "to");
    export_huggingface(import_huggingface(folder / "from"), folder / "to", {});
    EXPECT_EQ(testing::read_file(folder / "to/config.json"),
              testing::read_file(folder / "from/config.json"));
    EXPECT_EQ(testing::tensor_bytes(folder / "to"), testing::tensor_bytes(folder / "from"));
  }
}

struct PublishedRope {
  std::string name;
  Json changes;      // of the tiny config, whose heads have 4 pairs
  std::string said;  // the warning, after "rotary positions are scaled by "; empty: none
  RopeScaling expected;
};

std::vector<PublishedRope> published_ropes() {
  using Kind = RopeScalingKind;
  const Json yarn_32k = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  const RopeScaling by_four = {.kind = Kind::yarn, .factor = 4, .original_context = 32768};
  const std::string by_four_said =
      "a factor of 4: times original_max_position_embeddings, 32768, it is 131072 and not "
      "max_position_embeddings, ";
  Json deepseek = {{"type", "yarn"},
                   {"beta_fast", 32},
                   {"beta_slow", 1},
                   {"factor", 40},
                   {"mscale", 0.707},
                   {"mscale_all_dim", 0.707},
                   {"original_max_position_embeddings", 4096}};
  const RopeScaling by_forty = {.kind = Kind::yarn,
                                .factor = 40,
                                .original_context = 4096,
                                .mscale = 0.707,
                                .mscale_all_dim = 0.707};
  const RopeScaling phi = {.kind = Kind::longrope,
                           .factor = 32,
                           .original_context = 4096,
                           .short_factors = {1, 1.05, 1.1, 1.5},
                           .long_factors = {1, 1.5, 4, 16}};
  const Json phi_lists = {{"long_factor", {1, 1.5, 4, 16}}, {"short_factor", {1, 1.05, 1.1, 1.5}}};
  const auto with = [](Json object, const Json& more) {
    object.update(more);
    return object;
  };
  return {
      {"the advice of Qwen2.5: rope_scaling added, max_position_embeddings left",
       {{"max_position_embeddings", 32768}, {"rope_theta", 1e6}, {"rope_scaling", yarn_32k}},
       by_four_said + "32768",
       by_four},
      {"of Qwen3, whose max_position_embeddings hold answers too",
       {{"max_position_embeddings", 40960},
        {"rope_theta", 1e6},
        {"rope_scaling",
         {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}}}},
       by_four_said + "40960",
       by_four},
      {"consistent",
       {{"max_position_embeddings", 131072}, {"rope_scaling", yarn_32k}},
       "",
       by_four},
      {"of transformers 5",
       {{"max_position_embeddings", 32768},
        {"rope_theta", nullptr},
        {"rope_parameters", with(yarn_32k, {{"rope_theta", 1e6}})}},
       by_four_said + "32768",
       by_four},
      {"without the original context, which then is max_position_embeddings",
       {{"max_position_embeddings", 4096}, {"rope_scaling", {{"type", "yarn"}, {"factor", 2.0}}}},
       "a factor of 2: times original_max_position_embeddings, 4096, it is 8192 and not "
       "max_position_embeddings, 4096",
       {.kind = Kind::yarn, .factor = 2, .original_context = 4096}},
      {"Llama 3.1",
       {{"max_position_embeddings", 131072},
        {"rope_theta", 500000.0},
        {"rope_scaling",
         {{"factor", 8.0},
          {"high_freq_factor", 4.0},
          {"low_freq_factor", 1.0},
          {"original_max_position_embeddings", 8192},
          {"rope_type", "llama3"}}}},
       "",
       {.kind = Kind::llama3, .factor = 8, .original_context = 8192}},
      {"Phi-3: the original context beside, an older name",
       {{"max_position_embeddings", 131072},
        {"original_max_position_embeddings", 4096},
        {"rope_scaling", with(phi_lists, {{"type", "su"}})}},
       "",
       phi},
      {"longrope with another factor",
       {{"max_position_embeddings", 131072},
        {"rope_scaling", with(phi_lists, {{"rope_type", "longrope"},
                                          {"factor", 16.0},
                                          {"original_max_position_embeddings", 4096}})}},
       "a factor of 16: times original_max_position_embeddings, 4096, it is 65536 and not "
       "max_position_embeddings, 131072",
       {.kind = Kind::longrope,
        .factor = 16,
        .original_context = 4096,
        .short_factors = phi.short_factors,
        .long_factors = phi.long_factors}},
      {"DeepSeek", {{"max_position_embeddings", 163840}, {"rope_scaling", deepseek}}, "", by_forty},
      {"DeepSeek, served at 32K",
       {{"max_position_embeddings", 32768}, {"rope_scaling", deepseek}},
       "a factor of 40: times original_max_position_embeddings, 4096, it is 163840 and not "
       "max_position_embeddings, 32768",
       by_forty},
      {"linear",
       {{"max_position_embeddings", 16384},
        {"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}},
       "",
       {.kind = Kind::linear, .factor = 4, .original_context = 4096}},
      {"dynamic",
       {{"max_position_embeddings", 4096},
        {"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}},
       "",
       {.kind = Kind::dynamic, .factor = 2, .original_context = 4096}}};
}

TEST(HuggingFaceImport, PublishedRotaryScalingIsTakenAsItIsAndComesBack) {
  for (const PublishedRope& rope : published_ropes()) {
    SCOPED_TRACE(rope.name);
    const TemporaryFolder folder;
    const Json config = tiny_llama_config(rope.changes);
    write_huggingface_folder(folder / "from", config);
    ::testing::internal::CaptureStderr();
    const CheckpointContent content = import_huggingface(folder / "from");
    const std::string log = ::testing::internal::GetCapturedStderr();
    if (rope.said.empty()) {
      EXPECT_THAT(log, ::testing::Not(HasSubstr("rotary")));
    } else {
      EXPECT_THAT(log, HasSubstr("from/config.json: rotary positions are scaled by " + rope.said +
                                 "; all three are taken as they are\n"));
    }
    const Recipe recipe = recipe_in(content);
    EXPECT_EQ(recipe.model.max_context, config["max_position_embeddings"]);
    const BlockOptions& block = recipe.model.blocks.at("a");
    EXPECT_EQ(rope_options(block).scaling, rope.expected);
    EXPECT_TRUE(block.rope_allow_mismatch);
    load_weights(*make_model(recipe), content, "import");
    std::filesystem::create_directories(folder / "to");
    export_huggingface(content, folder / "to", {});
    EXPECT_EQ(Json::parse(testing::read_file(folder / "to/config.json")), config);
    EXPECT_EQ(testing::tensor_bytes(folder / "to"), testing::tensor_bytes(folder / "from"));
    // Changed elsewhere, these keys are still as they were.
    Recipe changed = recipe;
    changed.model.norm_eps = 1e-6;
    Json expected = config;
    expected["rms_norm_eps"] = 1e-6;
    EXPECT_EQ(Json::parse(foreign_model(changed, origin_in(content), {}).config), expected);
  }
}

TEST(HuggingFaceImport, RotaryScalingThatIsNotKnownIsRefused) {
  const TemporaryFolder folder;
  const auto with = [&](const Json& scaling) {
    std::ofstream(folder / "config.json") << tiny_llama_config({{"rope_scaling", scaling}}).dump();
    return message_of([&] { import_huggingface(folder.path()); });
  };
  EXPECT_THAT(with({{"type", "mrope"}, {"mrope_section", {16, 24, 24}}}),
              HasSubstr("rope_scaling.type: \"mrope\"; only default, linear, dynamic, yarn"));
  EXPECT_THAT(
      with({{"rope_type", "longrope"},
            {"short_factor", {1, 1, 1, 1}},
            {"long_factor", {1, 1, 1, 1}},
            {"original_max_position_embeddings", 4096},
            {"long_mscale", 1.24}}),
      HasSubstr("rope_scaling.long_mscale: 1.24; this key is not known, and may change what the"));
}

TEST(HuggingFaceExport, OnlyWhatChangedIsChanged) {
  const TemporaryFolder folder;
  const Json config = tiny_llama_config({{"use_cache", true}, {"head_dim", nullptr}});
  write_huggingface_folder(folder.path(), config);
  const CheckpointContent content = import_huggingface(folder.path());
  Recipe recipe = recipe_in(content);
  recipe.model.max_context = 256;
  recipe.model.blocks.at("a").rope_base = 40000;
  const ForeignModel model = foreign_model(recipe, origin_in(content), {});
  Json expected = config;
  expected["max_position_embeddings"] = 256;
  expected["rope_theta"] = 40000.0;
  EXPECT_EQ(Json::parse(model.config), expected);
  // Training on shorter rows takes nothing away.
  recipe = recipe_in(content);
  recipe.model.max_context = 0;
  recipe.train.context = 16;
  EXPECT_EQ(foreign_model(recipe, origin_in(content), {}).config, config.dump(1));
}

TEST(HuggingFaceExport, ALlamaWithAWindowBecomesAMistral) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder.path(), tiny_llama_config());
  const CheckpointContent content = import_huggingface(folder.path());
  Recipe recipe = recipe_in(content);
  recipe.model.blocks.at("a").pattern = PatternKind::window;
  recipe.model.blocks.at("a").window = 32;
  const ForeignModel model = foreign_model(recipe, origin_in(content), {});
  EXPECT_EQ(model.model_type, "mistral");
  EXPECT_EQ(Json::parse(model.config)["sliding_window"], 32);
  EXPECT_EQ(Json::parse(model.config)["architectures"], Json({"MistralForCausalLM"}));
}

TEST(HuggingFaceExport, ANewTypeIsSaidInTheConfig) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder.path(), tiny_llama_config());
  const CheckpointContent content = import_huggingface(folder.path());
  ExportOptions options;
  options.type = "BF16";
  const ForeignModel model = foreign_model(recipe_in(content), origin_in(content), options);
  EXPECT_EQ(Json::parse(model.config), tiny_llama_config({{"torch_dtype", "bfloat16"}}));
}

TEST(HuggingFaceExport, AModelOfOursGetsANewConfig) {
  const Json llama = fresh_config(small(attention_block()));
  EXPECT_EQ(llama["model_type"], "llama");
  EXPECT_EQ(llama["num_key_value_heads"], 4);
  EXPECT_EQ(llama["intermediate_size"], 128);
  EXPECT_EQ(llama["max_position_embeddings"], 128);
  EXPECT_EQ(llama["torch_dtype"], "float32");
  BlockOptions window = attention_block();
  window.pattern = PatternKind::window;
  window.window = 16;
  EXPECT_EQ(fresh_config(small(window))["sliding_window"], 16);
  const Json mamba = fresh_config(small(mamba_block()));
  EXPECT_EQ(mamba["model_type"], "mamba");
  EXPECT_EQ(mamba["time_step_rank"], 2);
}

TEST(HuggingFaceExport, ModelsWithoutAFamilyAreRefusedWithReasons) {
  const std::string begin = "no Hugging Face family that can be written has such a model:\n    ";
  BlockOptions block = attention_block();
  block.qk_norm = true;
  EXPECT_EQ(
      refusal_of(small(block)),
      begin +
          "not llama or mistral: block x: qk_norm is on\n    not mamba: block x: its mixer is "
          "not mamba1");
  block = mamba_block();
  block.feed_forward = FeedForwardKind::swiglu;
  EXPECT_EQ(refusal_of(small(block)),
            begin +
                "not llama or mistral: block x: its mixer is not attention"
                "\n    not mamba: block x: it has a feed-forward");
  block = attention_block();
  block.position = PositionKind::alibi;
  EXPECT_THAT(refusal_of(small(block)), HasSubstr("block x: its positions are not rotary"));
  block = attention_block();
  block.rotary_share = 0.5;
  EXPECT_THAT(refusal_of(small(block)), HasSubstr("block x: rotary_share is not 1"));
  ModelOptions model = small(attention_block());
  model.logit_soft_cap = 30;
  EXPECT_THAT(refusal_of(model), HasSubstr("not llama or mistral: logit_soft_cap is set"));
  model = small(attention_block());
  model.layers = "xy";
  model.blocks["y"] = attention_block();
  model.blocks["y"].key_value_heads = 2;
  EXPECT_THAT(refusal_of(model), HasSubstr("block y is unlike the others, and all must be equal"));
}

}  // namespace
}  // namespace sidewinder
