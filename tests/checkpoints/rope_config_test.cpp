#include "checkpoints/huggingface/rope_config.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "tests/support/huggingface_folder.h"
#include "tests/support/message_of.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kHead = 8;
constexpr int64_t kContext = 65536;

RopeByLayerType read_all(const Json& config, int64_t context = kContext, bool allow = false) {
  ConfigReader reader(config, "config.json");
  RopeByLayerType ropes = read_rope_config(reader, kHead, context, allow);
  reader.finish();
  return ropes;
}

RopeOptions read(const Json& config, int64_t context = kContext, bool allow = false) {
  const RopeByLayerType ropes = read_all(config, context, allow);
  EXPECT_EQ(ropes.size(), 1U);
  return ropes.at("");
}

std::string message_of(const Json& config, int64_t context = kContext) {
  return testing::refusal_of([&] { read_all(config, context); });
}

RopeOptions rope(double base, RopeScaling scaling = {}) {
  RopeOptions options{.head_width = kHead, .rotary_width = kHead, .base = base};
  options.scaling = std::move(scaling);
  return options;
}

const RopeScaling kYarn = {.kind = RopeScalingKind::yarn, .factor = 16, .original_context = 4096};

TEST(Positions6, BothSpellingsAreTheSameOptions) {
  const Json old = {
      {"rope_theta", 5e5},
      {"rope_scaling",
       {{"type", "yarn"}, {"factor", 16.0}, {"original_max_position_embeddings", 4096}}}};
  const Json with_both_types = {{"rope_theta", 5e5},
                                {"rope_scaling",
                                 {{"type", "yarn"},
                                  {"rope_type", "yarn"},
                                  {"factor", 16},
                                  {"original_max_position_embeddings", 4096}}}};
  const Json top_level = {{"rope_theta", 5e5},
                          {"original_max_position_embeddings", 4096},
                          {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 16}}}};
  const Json now = {{"rope_parameters",
                     {{"rope_type", "yarn"},
                      {"rope_theta", 5e5},
                      {"factor", 16},
                      {"original_max_position_embeddings", 4096},
                      {"beta_fast", 0},
                      {"mscale", 0},
                      {"attention_factor", nullptr}}}};
  for (const Json& config : {old, with_both_types, top_level, now}) {
    EXPECT_EQ(read(config), rope(5e5, kYarn)) << config;
  }
  EXPECT_EQ(read(Json::object()), rope(1e4));
  EXPECT_EQ(read({{"rope_scaling", nullptr}, {"rope_theta", 1e6}}), rope(1e6));
  EXPECT_EQ(read({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}}}),
            rope(1e6));
}

TEST(Positions6, EveryKeyIsTaken) {
  const RopeScaling yarn = read({{"rope_scaling",
                                  {{"rope_type", "yarn"},
                                   {"factor", 40},
                                   {"original_max_position_embeddings", 4096},
                                   {"beta_fast", 24},
                                   {"beta_slow", 2},
                                   {"mscale", 0.707},
                                   {"mscale_all_dim", 1.0},
                                   {"attention_factor", 1.5},
                                   {"truncate", false}}}},
                                40 * 4096)
                               .scaling;
  EXPECT_EQ(yarn.beta_fast, 24);
  EXPECT_EQ(yarn.beta_slow, 2);
  EXPECT_EQ(yarn.mscale, 0.707);
  EXPECT_EQ(yarn.mscale_all_dim, 1.0);
  EXPECT_EQ(yarn.attention_factor, 1.5);
  EXPECT_FALSE(yarn.truncate);
  // Phi-3: no factor, the original context beside the object.
  const RopeScaling longrope =
      read({{"original_max_position_embeddings", 4096},
            {"rope_scaling",
             {{"type", "su"}, {"short_factor", {1, 1, 1, 1}}, {"long_factor", {1, 1.5, 4, 16}}}}},
           131072)
          .scaling;
  EXPECT_EQ(longrope.kind, RopeScalingKind::longrope);
  EXPECT_EQ(longrope.factor, 32);
  EXPECT_EQ(longrope.original_context, 4096);
  EXPECT_EQ(longrope.long_factors, (std::vector<double>{1, 1.5, 4, 16}));
  // Llama 3.1: the context is neither the original one nor factor times that.
  const RopeScaling llama3 = read({{"rope_theta", 5e5},
                                   {"rope_scaling",
                                    {{"rope_type", "llama3"},
                                     {"factor", 8.0},
                                     {"low_freq_factor", 1.0},
                                     {"high_freq_factor", 4.0},
                                     {"original_max_position_embeddings", 8192}}}},
                                  131072)
                                 .scaling;
  EXPECT_EQ(llama3.kind, RopeScalingKind::llama3);
  EXPECT_EQ(llama3.original_context, 8192);
  const RopeScaling dynamic =
      read({{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2}}}}, 2048).scaling;
  EXPECT_EQ(dynamic.original_context, 2048);
  const RopeScaling linear =
      read({{"rope_scaling", {{"rope_type", "linear"}, {"factor", 4}}}}, 16384).scaling;
  EXPECT_EQ(linear.original_context, 4096);
  const RopeOptions partial = read({{"partial_rotary_factor", 0.5}});
  EXPECT_EQ(partial.rotary_width, 4);
  EXPECT_EQ(read({{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}), partial);
}

TEST(Positions6, LayerTypesHaveTheirOwn) {
  const RopeByLayerType ropes =
      read_all({{"rope_parameters",
                 {{"full_attention",
                   {{"rope_type", "yarn"},
                    {"rope_theta", 1e6},
                    {"factor", 16},
                    {"original_max_position_embeddings", 4096},
                    {"truncate", false}}},
                  {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 1e4}}}}}});
  ASSERT_EQ(ropes.size(), 2U);
  EXPECT_EQ(ropes.at("sliding_attention"), rope(1e4));
  EXPECT_EQ(ropes.at("full_attention").base, 1e6);
  EXPECT_FALSE(ropes.at("full_attention").scaling.truncate);  // read where it is written
}

TEST(Positions6, WrittenAndReadBackIsTheSame) {
  std::vector<RopeOptions> all = {rope(5e5), rope(1e4, kYarn)};
  RopeScaling yarn = kYarn;
  yarn.beta_fast = 16;
  yarn.beta_slow = 0.5;
  yarn.truncate = false;
  yarn.mscale = 0.707;
  yarn.mscale_all_dim = 1;
  yarn.attention_factor = 1.25;
  all.push_back(rope(1e6, yarn));
  all.push_back(
      rope(1e4, {.kind = RopeScalingKind::linear, .factor = 4, .original_context = 16384}));
  all.push_back(
      rope(1e4, {.kind = RopeScalingKind::dynamic, .factor = 2, .original_context = kContext}));
  all.push_back(rope(1e4, {.kind = RopeScalingKind::longrope,
                           .factor = 16,
                           .original_context = 4096,
                           .attention_factor = 1.1,
                           .short_factors = {1, 1, 1, 2},
                           .long_factors = {1, 1.5, 4, 16}}));
  all.push_back(rope(5e5, {.kind = RopeScalingKind::llama3,
                           .factor = 8,
                           .original_context = 8192,
                           .low_frequency_factor = 2,
                           .high_frequency_factor = 5}));
  all.push_back(rope(1e4, kYarn));
  all.back().rotary_width = 4;
  for (const RopeOptions& options : all) {
    for (const Json& start : {Json::object(), Json{{"rope_parameters", Json::object()}}}) {
      Json config = start;
      write_rope_config(options, kContext, config);
      EXPECT_EQ(read(config), options) << config;
      EXPECT_EQ(config.contains("rope_parameters"), start.contains("rope_parameters"));
      const Json once = config;
      write_rope_config(options, kContext, config);
      EXPECT_EQ(config, once);
    }
  }
}

TEST(Positions6, WhatAlreadySaysSoIsLeftAlone) {
  const Json original = {{"rope_theta", 10000},
                         {"rope_scaling",
                          {{"type", "yarn"},
                           {"factor", 16},
                           {"beta_fast", 32},
                           {"original_max_position_embeddings", 4096}}}};
  Json config = original;
  write_rope_config(rope(1e4, kYarn), kContext, config);
  EXPECT_EQ(config, original);
  RopeScaling more = kYarn;
  more.factor = 32;
  write_rope_config(rope(1e4, more), 2 * kContext, config);
  EXPECT_EQ(read(config, 2 * kContext), rope(1e4, more));
}

TEST(Positions6, NtkIsAChangedBaseAndPartsAreYarnWithoutTemperature) {
  Json config;
  const RopeOptions ntk =
      rope(1e4, {.kind = RopeScalingKind::ntk, .factor = 4, .original_context = 16384});
  write_rope_config(ntk, kContext, config);
  EXPECT_NEAR(config["rope_theta"].get<double>(), 63496.0420787, 1e-6);
  EXPECT_EQ(rope_frequencies(read(config), 0), rope_frequencies(ntk, 0));
  RopeScaling parts = kYarn;
  parts.kind = RopeScalingKind::ntk_by_parts;
  config = Json::object();
  write_rope_config(rope(1e4, parts), kContext, config);
  const RopeOptions back = read(config);
  EXPECT_EQ(rope_frequencies(back, 0), rope_frequencies(rope(1e4, parts), 0));
  EXPECT_EQ(rope_attention_factor(back), 1.0);
}

TEST(Positions6, WhatCannotBeHonouredIsNamed) {
  const auto scaling = [](const Json& object) { return Json{{"rope_scaling", object}}; };
  EXPECT_EQ(message_of(scaling({{"rope_type", "yarn"}, {"factr", 4}})),
            "rope_scaling.factor: missing; a number above 0 is needed\n    rope_scaling.factr: 4; "
            "this key is not known, and may change what the model computes");
  EXPECT_EQ(message_of(scaling({{"rope_type", "proportional"}})),
            "rope_scaling.rope_type: \"proportional\"; only default, linear, dynamic, yarn, "
            "longrope and llama3 are supported");
  EXPECT_EQ(
      message_of(scaling({{"type", "mrope"}})),
      "rope_scaling.type: \"mrope\"; only default, linear, dynamic, yarn, longrope and llama3 "
      "are supported");
  EXPECT_EQ(
      message_of(scaling({{"factor", 4}})),
      "rope_scaling.factor: 4; this key is not known, and may change what the model computes");
  EXPECT_EQ(message_of(scaling({{"type", "linear"}, {"rope_type", "yarn"}, {"factor", 1}})),
            "rope_scaling.type: \"linear\"; rope_type is \"yarn\"");
  EXPECT_EQ(message_of(scaling({{"rope_type", "linear"}, {"factor", 0.5}})),
            "rope_scaling: factor 0.5 would shrink the context; it must be at least 1");
  EXPECT_EQ(
      message_of(scaling(
          {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 4096}})),
      "rope_scaling.factor: 4; times original_max_position_embeddings, 4096, it is 16384 and "
      "not max_position_embeddings, 65536");
  EXPECT_EQ(message_of(scaling({{"rope_type", "yarn"}, {"factor", 4}})),
            "rope_scaling.factor: 4; times original_max_position_embeddings, 65536, it is 262144 "
            "and not max_position_embeddings, 65536");
  EXPECT_EQ(message_of(scaling({{"rope_type", "longrope"},
                                {"short_factor", {1, 1, 1}},
                                {"long_factor", {1, 1, 1, "x"}},
                                {"original_max_position_embeddings", 4096}})),
            "rope_scaling.long_factor: [1,1,1,\"x\"]; a list of numbers is needed, one per pair");
  EXPECT_EQ(message_of({{"rope_theta", 1e4}, {"rope_parameters", {{"rope_theta", 2e4}}}}),
            "rope_parameters.rope_theta: 20000.0; it is 10000 beside this object");
  EXPECT_EQ(message_of({{"rope_scaling", {{"rope_type", "default"}}},
                        {"rope_parameters", {{"rope_theta", 2e4}}}}),
            "rope_scaling: {\"rope_type\":\"default\"}; rope_parameters is there too, and says "
            "something else");
  EXPECT_EQ(message_of({{"rope_scaling", 4}}), "rope_scaling: 4; an object or null is needed");
  EXPECT_EQ(message_of({{"rope_parameters", {{"full_attention", {{"foo", 1}}}}}}),
            "rope_parameters.full_attention.foo: 1; this key is not known, and may change what the "
            "model computes");
}

std::string write_message(const RopeOptions& options) {
  Json config;
  return testing::message_of([&] { write_rope_config(options, kContext, config); });
}

TEST(Positions6, WhatCannotBeWrittenIsRefused) {
  RopeScaling paper = kYarn;
  paper.ramp = RopeRamp::rotations;
  EXPECT_EQ(write_message(rope(1e4, paper)),
            "config.json has no word for a YaRN ramp by rotations; only the ramp by index can be "
            "stored");
  RopeOptions interleaved = rope(1e4);
  interleaved.interleaved = true;
  EXPECT_EQ(write_message(interleaved),
            "rotary pairs are interleaved, and config.json means half-split ones; permute the rows "
            "of queries and keys first");
  EXPECT_EQ(write_message(rope(
                1e4, {.kind = RopeScalingKind::dynamic, .factor = 2, .original_context = 512})),
            "dynamic rotary positions begin at an original context of 512, but in config.json they "
            "begin at max_position_embeddings, 65536; store the model with a context of 512");
}

}  // namespace
}  // namespace sidewinder
