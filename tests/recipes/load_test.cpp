#include "recipes/load.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "kernels/base/error.h"
#include "recipes/recipe.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;

const std::string kMinimal = std::string(SIDEWINDER_SOURCE_DIR) + "/tests/recipes/minimal.toml";

// A folder for one test's recipes, removed at its end.
class RecipeFiles : public testing::Test {
 protected:
  void SetUp() override {
    const auto* const test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / (std::string("sidewinder-recipes-") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "bases");
    fs::copy_file(kMinimal, folder_ / "minimal.toml");
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }

  fs::path folder_;
};

TEST_F(RecipeFiles, LaterKeysOverrideWhatIsExtended) {
  write("bases/long.toml",
        "extends = \"../minimal.toml\"\n[train]\nsteps = 500\ncontext = 128\n"
        "[model.block.w]\nwindow = 32\n");
  const Recipe recipe =
      load_recipe(write("own.toml", "extends = \"bases/long.toml\"\n[train]\nsteps = 700\n"));
  EXPECT_EQ(recipe.train.steps, 700);
  EXPECT_EQ(recipe.train.context, 128);
  EXPECT_EQ(recipe.train.tokens_per_step, 256);
  EXPECT_EQ(recipe.model.blocks.at("w").window, 32);
  EXPECT_EQ(recipe.model.blocks.at("w").mixer, MixerKind::attention);
  EXPECT_EQ(recipe.run.name, "own");
  EXPECT_EQ(recipe.run.folder, "runs/own");
}

TEST_F(RecipeFiles, ListsAreReplacedNotJoined) {
  const Recipe recipe = load_recipe(write(
      "own.toml",
      "extends = \"minimal.toml\"\n[[data.train]]\nname = \"code\"\nfolder = \"c\"\nweight = 2\n"));
  ASSERT_EQ(recipe.data.train.size(), 1U);
  EXPECT_EQ(recipe.data.train[0].name, "code");
  EXPECT_EQ(recipe.data.train[0].weight, 2.0);
}

TEST_F(RecipeFiles, InheritedBlocksAndKeysThatLostTheirUseDoNotCount) {
  const Recipe recipe = load_recipe(write("own.toml",
                                          "extends = \"minimal.toml\"\n[model]\nlayers = \"w\"\n"
                                          "[model.block.w]\npattern = \"full\"\n"));
  EXPECT_EQ(recipe.model.blocks.size(), 1U);
  EXPECT_EQ(recipe.model.blocks.count("w"), 1U);
  EXPECT_EQ(recipe.model.blocks.at("w").window, BlockOptions{}.window);
  EXPECT_EQ(resolved_toml(recipe).find("window"), std::string::npos);
}

TEST_F(RecipeFiles, WhatWasToBeValidatedDoesNotCountWithoutTheData) {
  const std::string validating =
      write("own.toml",
            "extends = \"minimal.toml\"\n[train]\nvalidate_every = 10\nvalidate_tokens = 1000\n"
            "[context]\nvalidate_lengths = [8]\n");
  const std::string away =
      write("away.toml", "extends = \"own.toml\"\n[data]\nvalidation = \"\"\n");
  for (const Recipe& recipe : {load_recipe(validating, {"data.validation="}), load_recipe(away)}) {
    EXPECT_EQ(recipe.train.validate_every, 0);
    EXPECT_EQ(recipe.train.validate_tokens, 0);
    EXPECT_TRUE(recipe.context.validate_lengths.empty());
  }
  // Asked for together with that, or where nobody took data away, it is a mistake.
  EXPECT_THROW(load_recipe(kMinimal, {"data.validation=", "train.validate_every=10"}), Error);
  std::string text = resolved_toml(load_recipe(validating));
  const size_t at = text.find("validation = ");
  text.erase(at, text.find('\n', at) + 1 - at);
  write("never.toml", text);
  const std::string still = write("still.toml", "extends = \"never.toml\"\n[data]\nprefetch = 2\n");
  EXPECT_THROW(load_recipe(still), Error);
}

TEST(RecipeSet, TakesTomlValuesAndBareWords) {
  const Recipe recipe = load_recipe(
      kMinimal, {"train.steps=1_000", "learning_rate.peak = 2e-3", "train.precision=f32",
                 "model.tied_embeddings=false", "run.name=a name of words", "model.layers=\"mmw\"",
                 "run.seed=7", "data.validation="});
  EXPECT_EQ(recipe.train.steps, 1000);
  EXPECT_EQ(recipe.learning_rate.peak, 2e-3);
  EXPECT_EQ(recipe.train.precision, Precision::f32);
  EXPECT_FALSE(recipe.model.tied_embeddings);
  EXPECT_EQ(recipe.run.name, "a name of words");
  EXPECT_EQ(recipe.run.folder, "runs/a name of words");
  EXPECT_EQ(recipe.model.layers, "mmw");
  EXPECT_EQ(recipe.run.seed, 7U);
  EXPECT_EQ(recipe.data.validation, "");
}

TEST(RecipeSet, LaterArgumentsWin) {
  EXPECT_EQ(load_recipe(kMinimal, {"train.steps=5", "train.steps=6"}).train.steps, 6);
}

TEST(RecipeSet, ReachesIntoListsAndTables) {
  const Recipe recipe =
      load_recipe(kMinimal, {"data.train.0.folder=elsewhere", "model.block.m.state=32",
                             "model.block.w={window=4, head_width=32}"});
  EXPECT_EQ(recipe.data.train[0].folder, "elsewhere");
  EXPECT_EQ(recipe.data.train[0].name, "text");
  EXPECT_EQ(recipe.model.blocks.at("m").state, 32);
  EXPECT_EQ(recipe.model.blocks.at("w").window, 4);
  EXPECT_EQ(recipe.model.blocks.at("w").head_width, 32);
}

TEST(RecipeSet, MakesSectionsThatTheFileLacks) {
  const Recipe recipe = load_recipe(kMinimal, {"optimizer.weight_decay=0", "init.from=runs/x"});
  EXPECT_EQ(recipe.optimizer.weight_decay, 0.0);
  EXPECT_EQ(recipe.init.from, "runs/x");
}

TEST(RecipeSet, CanSwitchWhatMakesOtherKeysPointless) {
  const Recipe recipe = load_recipe(kMinimal, {"learning_rate.final_share=0.2",
                                               "learning_rate.shape=constant", "model.layers=m"});
  EXPECT_EQ(recipe.learning_rate.shape, LearningRateShape::constant);
  EXPECT_EQ(recipe.learning_rate.final_share, LearningRateOptions{}.final_share);
  EXPECT_EQ(recipe.model.blocks.count("w"), 0U);
}

TEST(ParseToml, PlacesKeysAndValues) {
  Problems problems;
  const auto tree = parse_toml("[a]\n  key = 5\n", "file", 0, problems);
  ASSERT_TRUE(tree.has_value());
  const Node& item = tree->items.at(0).items.at(0);
  EXPECT_EQ(item.key_place.text(), "file:2:3");
  EXPECT_EQ(item.place.text(), "file:2:9");
}

TEST(ParseRecipe, AnyDamageIsAnErrorOfTheUserOrHarmless) {
  std::ifstream file(kMinimal, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::string bytes = "=[]{}\"'\n\\#.,-_ 0159aemtw\xff\x01";
  std::mt19937 random(1);
  int num_refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = text;
    for (size_t j = 0; j <= random() % 3; ++j) {
      const size_t at = random() % damaged.size();
      switch (random() % 3) {
        case 0: damaged[at] = bytes[random() % bytes.size()]; break;
        case 1: damaged.erase(at, 1 + random() % 20); break;
        default: damaged.insert(at, 1, bytes[random() % bytes.size()]);
      }
    }
    try {
      const std::string resolved = resolved_toml(parse_recipe(damaged, "damaged"));
      EXPECT_EQ(resolved_toml(parse_recipe(resolved, "damaged")), resolved) << damaged;
    } catch (const Error& error) {
      ++num_refused;
      EXPECT_EQ(error.exit_code(), ExitCode::user) << damaged;
      EXPECT_STRNE(error.what(), "");
    }
  }
  EXPECT_GT(num_refused, 1000);
  EXPECT_LT(num_refused, 3000);
}

TEST(ParseRecipe, RefusesToExtend) {
  try {
    parse_recipe("extends = \"other.toml\"\n", "stored");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("stored:1:1: extends: unknown key"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace sidewinder
