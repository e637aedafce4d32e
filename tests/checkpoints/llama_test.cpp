#include "checkpoints/huggingface/llama.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/huggingface_folder.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;
using testing::tiny_llama_config;

LlamaConfig read(const Json& changes) {
  return read_llama_config(tiny_llama_config(changes), "config.json");
}

std::string message_of(const Json& changes) {
  return testing::refusal_of([&] { read(changes); });
}

TEST(Llama, AConfigIsRead) {
  const LlamaConfig config = read({});
  EXPECT_FALSE(config.is_mistral);
  EXPECT_EQ(config.vocabulary, 256);
  EXPECT_EQ(config.width, 32);
  EXPECT_EQ(config.hidden, 48);
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.key_value_heads, 2);
  EXPECT_EQ(config.head_width, 8);
  EXPECT_EQ(config.context, 64);
  EXPECT_EQ(config.window, 0);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.rope.base, 10000.0);
  EXPECT_FALSE(config.tied);
}

TEST(Llama, AbsentKeysHaveTheDefaultsOfTheClass) {
  const Json bare = {
      {"model_type", "llama"},          {"vocab_size", 100},      {"hidden_size", 64},
      {"intermediate_size", 100},       {"num_hidden_layers", 3}, {"num_attention_heads", 4},
      {"num_key_value_heads", nullptr}, {"head_dim", nullptr},    {"rope_scaling", nullptr}};
  const LlamaConfig config = read_llama_config(bare, "config.json");
  EXPECT_EQ(config.key_value_heads, 4);
  EXPECT_EQ(config.head_width, 16);
  EXPECT_EQ(config.norm_eps, 1e-6);
  EXPECT_EQ(config.rope.base, 10000.0);
  EXPECT_EQ(config.context, 2048);
  EXPECT_FALSE(config.tied);
  Json mistral = bare;
  mistral["model_type"] = "mistral";
  EXPECT_EQ(read_llama_config(mistral, "").window, 4096);
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(read_llama_config(mistral, "").window, 0);
}

TEST(Llama, HeadsMayHaveAWidthOfTheirOwn) {
  EXPECT_EQ(read({{"head_dim", 16}}).head_width, 16);
  EXPECT_EQ(read({{"num_attention_heads", 6}, {"head_dim", 10}}).head_width, 10);
}

TEST(Llama, MistralHasAWindow) {
  const LlamaConfig config = read({{"model_type", "mistral"}, {"sliding_window", 16}});
  EXPECT_TRUE(config.is_mistral);
  EXPECT_EQ(config.window, 16);
  EXPECT_EQ(message_of({{"sliding_window", 16}}),
            "sliding_window: 16; llama has no window; with one it is a mistral");
}

TEST(Llama, BothSpellingsOfTheRotaryBaseAreRead) {
  EXPECT_EQ(read({{"rope_theta", 5e5}}).rope.base, 5e5);
  const Json both = {{"rope_theta", nullptr},
                     {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 2e4}}}};
  EXPECT_EQ(read(both).rope.base, 2e4);
}

TEST(Llama, KeysThatNobodyKnowsStopWithNameAndValue) {
  EXPECT_EQ(
      message_of({{"quantization_config", {{"bits", 4}}}, {"clip_qkv", 8.0}}),
      "quantization_config: {\"bits\":4}; this key is not known, and may change what the model "
      "computes\n    clip_qkv: 8.0; this key is not known, and may change what the model "
      "computes");
}

TEST(Llama, ValuesThatCannotBeHonouredStopWithNameAndValue) {
  EXPECT_EQ(message_of({{"hidden_act", "gelu"}}), "hidden_act: \"gelu\"; only silu is supported");
  EXPECT_EQ(message_of({{"attention_bias", true}}),
            "attention_bias: true; projections with biases are not supported");
  EXPECT_EQ(message_of({{"mlp_bias", true}}),
            "mlp_bias: true; projections with biases are not supported");
  EXPECT_EQ(message_of({{"attention_dropout", 0.1}}),
            "attention_dropout: 0.1; dropout is not supported");
  EXPECT_EQ(message_of({{"num_key_value_heads", 3}}),
            "num_key_value_heads: 3; it must divide num_attention_heads, 4");
  EXPECT_EQ(message_of({{"head_dim", 7}}),
            "head_dim: 7; heads of width 7 have no rotary pairs; it must be even");
  EXPECT_EQ(message_of({{"vocab_size", nullptr}}),
            "vocab_size: missing; a whole number of at least 1 is needed");
  EXPECT_EQ(message_of({{"intermediate_size", 32.5}}),
            "intermediate_size: 32.5; a whole number of at least 1 is needed");
  EXPECT_EQ(message_of({{"rms_norm_eps", "small"}}),
            "rms_norm_eps: \"small\"; a number above 0 is needed");
  EXPECT_EQ(message_of({{"tie_word_embeddings", 1}}),
            "tie_word_embeddings: 1; true or false is needed");
  EXPECT_EQ(message_of({{"num_attention_heads", 5}, {"num_key_value_heads", nullptr}}),
            "num_attention_heads: 5; it must divide hidden_size, 32, or head_dim be set");
}

TEST(Llama, AConfigFromNothingSaysTheSame) {
  LlamaConfig config = read({{"head_dim", 16}, {"tie_word_embeddings", true}, {"rope_theta", 5e5}});
  EXPECT_EQ(read_llama_config(write_llama_config(config, Json::object()), "again"), config);
  config.is_mistral = true;
  config.window = 32;
  EXPECT_EQ(read_llama_config(write_llama_config(config, Json::object()), "again"), config);
  config.window = 0;
  EXPECT_EQ(read_llama_config(write_llama_config(config, Json::object()), "again"), config);
}

TEST(Llama, TensorsHaveTheNamesAndShapesOfTheFormat) {
  const testing::PartShapes expected = {{"model.embed_tokens.weight", {256, 32}},
                                        {"model.layers.0.input_layernorm.weight", {32}},
                                        {"model.layers.0.self_attn.q_proj.weight", {24, 32}},
                                        {"model.layers.0.self_attn.k_proj.weight", {12, 32}},
                                        {"model.layers.0.self_attn.v_proj.weight", {12, 32}},
                                        {"model.layers.0.self_attn.o_proj.weight", {32, 24}},
                                        {"model.layers.0.post_attention_layernorm.weight", {32}},
                                        {"model.layers.0.mlp.gate_proj.weight", {48, 32}},
                                        {"model.layers.0.mlp.up_proj.weight", {48, 32}},
                                        {"model.layers.0.mlp.down_proj.weight", {32, 48}},
                                        {"model.norm.weight", {32}},
                                        {"lm_head.weight", {256, 32}}};
  EXPECT_EQ(testing::part_shapes(llama_tensors(read({{"num_hidden_layers", 1}, {"head_dim", 6}}))),
            expected);
  EXPECT_EQ(llama_tensors(read({{"tie_word_embeddings", true}})).rules.back().name,
            "final_norm.weight");
}

}  // namespace
}  // namespace sidewinder
