#include <gtest/gtest.h>

#include <filesystem>

#include "kernels/base/error.h"
#include "recipes/recipe.h"

namespace sidewinder {
namespace {

const std::string kSource = SIDEWINDER_SOURCE_DIR;
const std::string kMinimal = kSource + "/tests/recipes/minimal.toml";

TEST(ResolvedRecipe, ReadsBackAsTheSameRecipe) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kSource + "/recipes")) {
    if (entry.path().extension() != ".toml") continue;
    const Recipe recipe = load_recipe(entry.path().string());
    const std::string text = resolved_toml(recipe);
    EXPECT_EQ(resolved_toml(parse_recipe(text, "another name")), text) << entry.path();
    EXPECT_TRUE(resume_conflicts(text, recipe).empty()) << entry.path();
  }
}

TEST(ResolvedRecipe, KeepsEveryValueExactly) {
  const Recipe recipe = parse_recipe(
      resolved_toml(load_recipe(
          kMinimal,
          {"learning_rate.peak=0.1234567890123456789", "optimizer.eps=1e-300", "model.norm_eps=3",
           "run.seed=9223372036854775807", "train.precision=f64", "train.recompute=block",
           "data.long_documents=drop", "data.isolate_state=false",
           "run.folder=\"a \\\"quoted\\\" \\\\ name\\t…\"", "model.block.w.qk_norm=true"})),
      "stored");
  EXPECT_EQ(recipe.learning_rate.peak, 0.1234567890123456789);
  EXPECT_EQ(recipe.optimizer.eps, 1e-300);
  EXPECT_EQ(recipe.model.norm_eps, 3.0);
  EXPECT_EQ(recipe.run.seed, 9223372036854775807U);
  EXPECT_EQ(recipe.train.precision, Precision::f64);
  EXPECT_EQ(recipe.train.recompute, RecomputeKind::block);
  EXPECT_EQ(recipe.data.long_documents, LongDocuments::drop);
  EXPECT_FALSE(recipe.data.isolate_state);
  EXPECT_EQ(recipe.run.folder, "a \"quoted\" \\ name\t…");
  EXPECT_EQ(recipe.run.name, "minimal");
  EXPECT_TRUE(recipe.model.blocks.at("w").qk_norm);
}

TEST(ResolvedRecipe, KeepsRotaryScaling) {
  const std::string path = "model.block.w.";
  const std::vector<std::string> sets = {path + "pattern=full",
                                         path + "head_width=4",
                                         path + "heads=4",
                                         path + "rope_layout=interleaved",
                                         path + "rope_scaling=longrope",
                                         path + "rope_factor=8",
                                         path + "rope_original_context=8",
                                         path + "rope_short_factors=[1, 1.0000000000000002]",
                                         path + "rope_long_factors=[1, 7.5]"};
  const std::string text = resolved_toml(load_recipe(kMinimal, sets));
  EXPECT_NE(text.find("\nrope_long_factors = [1.0, 7.5]\n"), std::string::npos) << text;
  const BlockOptions block = parse_recipe(text, "stored").model.blocks.at("w");
  const RopeOptions rope = rope_options(block);
  EXPECT_TRUE(rope.interleaved);
  EXPECT_EQ(rope.scaling.kind, RopeScalingKind::longrope);
  EXPECT_EQ(rope.scaling.factor, 8.0);
  EXPECT_EQ(rope.scaling.original_context, 8);
  EXPECT_EQ(rope.scaling.short_factors, (std::vector<double>{1, 1.0000000000000002}));
  EXPECT_EQ(rope.scaling.long_factors, (std::vector<double>{1, 7.5}));
  EXPECT_EQ(rope_options(BlockOptions{}).scaling, RopeScaling{}) << "the defaults are the same";
}

TEST(ResolvedRecipe, AStoredRecipeMayBeUsedOtherwise) {
  const std::string path = "model.block.w.";
  const std::string text = resolved_toml(load_recipe(kMinimal, {path + "pattern=full"}));
  const std::vector<std::string> sets = {path + "rope_scaling=dynamic", path + "rope_factor=2",
                                         path + "rope_original_context=32"};
  const Recipe recipe = parse_recipe(text, "stored", sets);
  EXPECT_EQ(recipe.model.blocks.at("w").rope_scaling, RopeScalingKind::dynamic);
  EXPECT_EQ(recipe.model.blocks.at("w").rope_factor, 2.0);
  try {
    parse_recipe(text, "stored", {path + "rope_scalin=none"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    EXPECT_EQ(std::string(error.what()).rfind("--set model.block.w.rope_scalin=none", 0), 0U)
        << error.what();
  }
}

TEST(ResolvedRecipe, RotaryScalingMayBeForced) {
  const std::string path = "model.block.w.";
  EXPECT_NO_THROW(
      load_recipe(kMinimal, {path + "rope_scaling=yarn", path + "rope_factor=3",
                             path + "rope_original_context=8", path + "rope_allow_mismatch=true"}));
}

TEST(ResolvedRecipe, HoldsDefaultsAndOnlyKeysWithEffect) {
  const std::string text = resolved_toml(load_recipe(kMinimal));
  EXPECT_NE(text.find("\nbeta2 = 0.95\n"), std::string::npos) << text;
  EXPECT_NE(text.find("[model.block.m]\nmixer = \"mamba1\"\nstate = 16\n"), std::string::npos);
  EXPECT_EQ(text.find("decay_steps"), std::string::npos);
}

using Texts = std::vector<std::string>;

Texts conflicts(const Texts& before, const Texts& now) {
  return resume_conflicts(resolved_toml(load_recipe(kMinimal, before)), load_recipe(kMinimal, now));
}

TEST(ResumeRules, FixedKeysAreNamedWithBothValues) {
  EXPECT_EQ(conflicts({}, {"model.width=128", "train.precision=f32"}),
            (Texts{"model.width: 64 in the checkpoint, 128 now",
                   "train.precision: \"bf16\" in the checkpoint, \"f32\" now"}));
}

TEST(ResumeRules, StepsMayGrowButNotShrink) {
  EXPECT_EQ(conflicts({}, {"train.steps=101"}), Texts{});
  EXPECT_EQ(conflicts({}, {"train.steps=99"}),
            Texts{"train.steps: 100 in the checkpoint, 99 now; it may only grow"});
}

TEST(ResumeRules, CadenceAndFoldersMayChange) {
  EXPECT_EQ(conflicts({}, {"train.log_every=1", "train.validate_every=7", "train.validate_tokens=9",
                           "checkpoint.every_steps=3", "checkpoint.keep_last=9",
                           "checkpoint.keep_every=6", "data.prefetch=1", "data.validation=other",
                           "run.name=other", "run.folder=elsewhere", "train.recompute=block",
                           "train.max_skipped_steps=1"}),
            Texts{});
}

TEST(ResumeRules, WhatDefinesTheDataIsFixed) {
  EXPECT_EQ(conflicts({}, {"data.train.0.weight=2", "data.packing_buffer=8", "run.seed=1"}),
            (Texts{"data.packing_buffer: 256 in the checkpoint, 8 now",
                   "data.train.0.weight: 1.0 in the checkpoint, 2.0 now",
                   "run.seed: 0 in the checkpoint, 1 now"}));
}

TEST(ResumeRules, NumbersOfListsAreCompared) {
  const std::string path = "model.block.w.";
  Texts before = {path + "pattern=full",
                  path + "head_width=4",
                  path + "rope_scaling=longrope",
                  path + "rope_factor=8",
                  path + "rope_original_context=8",
                  path + "rope_short_factors=[1, 1]",
                  path + "rope_long_factors=[1, 7.5]"};
  Texts now = before;
  now.back() = path + "rope_long_factors=[1, 8]";
  EXPECT_EQ(conflicts(before, now),
            Texts{"model.block.w.rope_long_factors.1: 7.5 in the checkpoint, 8.0 now"});
}

TEST(ResumeRules, KeysThatAppearOrVanishAreNamed) {
  EXPECT_EQ(conflicts({}, {"model.block.w.pattern=full"}),
            (Texts{"model.block.w.pattern: \"window\" in the checkpoint, \"full\" now",
                   "model.block.w.window: 8 in the checkpoint, not set now"}));
}

TEST(ResumeRules, KeysThatAnOlderVersionDidNotWriteCountAsDefaults) {
  std::string text = resolved_toml(load_recipe(kMinimal));
  const std::string line = "z_loss = 0.0\n";
  const size_t at = text.find(line);
  ASSERT_NE(at, std::string::npos);
  text.erase(at, line.size());
  EXPECT_EQ(resume_conflicts(text, load_recipe(kMinimal)), Texts{});
  EXPECT_EQ(resume_conflicts(text, load_recipe(kMinimal, {"train.z_loss=1e-4"})),
            Texts{"train.z_loss: 0.0 in the checkpoint, 0.0001 now"});
}

TEST(ResumeRules, ADamagedStoredRecipeIsNotTheUsersFault) {
  try {
    resume_conflicts("[train\n", load_recipe(kMinimal));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    EXPECT_EQ(std::string(error.what()).rfind("the checkpoint's recipe:1:7: ", 0), 0U);
  }
}

}  // namespace
}  // namespace sidewinder
