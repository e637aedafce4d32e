#include "checkpoints/huggingface/mamba.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/huggingface_folder.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;
using testing::tiny_mamba_config;

MambaConfig read(const Json& changes) {
  return read_mamba_config(tiny_mamba_config(changes), "config.json");
}

std::string message_of(const Json& changes) {
  return testing::refusal_of([&] { read(changes); });
}

TEST(Mamba, AConfigIsRead) {
  const MambaConfig config = read({});
  EXPECT_EQ(config.vocabulary, 256);
  EXPECT_EQ(config.width, 24);
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.state, 4);
  EXPECT_EQ(config.conv_width, 4);
  EXPECT_EQ(config.expand, 2);
  EXPECT_EQ(config.dt_rank, 3);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_TRUE(config.tied);
}

TEST(Mamba, TheRankMayBeAuto) {
  EXPECT_EQ(read({{"time_step_rank", "auto"}}).dt_rank, 2);
  EXPECT_EQ(read({{"time_step_rank", nullptr}}).dt_rank, 2);
  EXPECT_EQ(message_of({{"time_step_rank", "most"}}),
            "time_step_rank: \"most\"; a whole number of at least 1 is needed");
}

TEST(Mamba, ThePublishedConfigIsRead) {
  // As in the released mamba-130m-hf.
  const Json published = Json::parse(R"({
    "architectures": ["MambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4, "d_inner": 1536,
    "d_model": 768, "eos_token_id": 0, "expand": 2, "fused_add_norm": true, "hidden_act": "silu",
    "hidden_size": 768, "initializer_range": 0.1, "intermediate_size": 1536,
    "layer_norm_epsilon": 1e-05, "model_type": "mamba", "n_layer": 24, "num_hidden_layers": 24,
    "pad_token_id": 0, "pad_vocab_size_multiple": 8, "rescale_prenorm_residual": false,
    "residual_in_fp32": true, "rms_norm": true, "ssm_cfg": {}, "state_size": 16,
    "time_step_floor": 0.0001, "time_step_init_scheme": "random", "time_step_max": 0.1,
    "time_step_min": 0.001, "time_step_rank": 48, "time_step_scale": 1.0,
    "torch_dtype": "float32", "transformers_version": "4.39.0.dev0", "use_bias": false,
    "use_cache": true, "use_conv_bias": true, "vocab_size": 50280})");
  const MambaConfig config = read_mamba_config(published, "config.json");
  EXPECT_EQ(config.layers, 24);
  EXPECT_EQ(config.dt_rank, 48);
  EXPECT_TRUE(config.tied);
}

TEST(Mamba, ValuesThatCannotBeHonouredStopWithNameAndValue) {
  EXPECT_EQ(message_of({{"use_bias", nullptr}}),
            "use_bias: missing; projections with biases are not supported; it must be false");
  EXPECT_EQ(message_of({{"use_conv_bias", false}}),
            "use_conv_bias: false; the convolution must have a bias");
  EXPECT_EQ(message_of({{"conv_kernel", 9}}), "conv_kernel: 9; widths from 2 to 8 are supported");
  EXPECT_EQ(message_of({{"intermediate_size", 50}}),
            "intermediate_size: 50; expand · hidden_size is 48");
  EXPECT_EQ(message_of({{"ssm_cfg", {{"layer", "Mamba2"}}}}),
            "ssm_cfg: {\"layer\":\"Mamba2\"}; only {} and {\"layer\": \"Mamba1\"} are supported");
  EXPECT_EQ(message_of({{"hidden_act", "relu"}}), "hidden_act: \"relu\"; only silu is supported");
  EXPECT_EQ(message_of({{"mixer_rms_eps", 1e-6}}),
            "mixer_rms_eps: 1e-06; this key is not known, and may change what the model computes");
}

TEST(Mamba, AConfigFromNothingSaysTheSame) {
  const MambaConfig config = read({{"expand", 3}, {"tie_word_embeddings", false}});
  EXPECT_EQ(read_mamba_config(write_mamba_config(config, Json::object()), "again"), config);
}

TEST(Mamba, TensorsHaveTheNamesAndShapesOfTheFormat) {
  const testing::PartShapes expected = {{"backbone.embeddings.weight", {256, 24}},
                                        {"backbone.layers.0.norm.weight", {24}},
                                        {"backbone.layers.0.mixer.in_proj.weight", {96, 24}},
                                        {"backbone.layers.0.mixer.conv1d.weight", {48, 1, 4}},
                                        {"backbone.layers.0.mixer.conv1d.bias", {48}},
                                        {"backbone.layers.0.mixer.x_proj.weight", {11, 48}},
                                        {"backbone.layers.0.mixer.dt_proj.weight", {48, 3}},
                                        {"backbone.layers.0.mixer.dt_proj.bias", {48}},
                                        {"backbone.layers.0.mixer.A_log", {48, 4}},
                                        {"backbone.layers.0.mixer.D", {48}},
                                        {"backbone.layers.0.mixer.out_proj.weight", {24, 48}},
                                        {"backbone.norm_f.weight", {24}}};
  EXPECT_EQ(testing::part_shapes(mamba_tensors(read({{"num_hidden_layers", 1}}))), expected);
  EXPECT_EQ(mamba_tensors(read({{"tie_word_embeddings", false}})).rules.back().parts[0].name,
            "lm_head.weight");
}

}  // namespace
}  // namespace sidewinder
