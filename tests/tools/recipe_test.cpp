#include "tools/commands/recipe.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "kernels/base/error.h"
#include "recipes/recipe.h"
#include "recipes/reference.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;

const std::string kMinimal = std::string(SIDEWINDER_SOURCE_DIR) + "/tests/recipes/minimal.toml";

class RecipeCommand : public testing::Test {
 protected:
  void SetUp() override {
    const auto* const test = testing::UnitTest::GetInstance()->current_test_info();
    output_ = fs::temp_directory_path() / (std::string("sidewinder-recipe-") + test->name());
  }
  void TearDown() override { fs::remove(output_); }

  std::string written() const {
    std::ifstream file(output_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  fs::path output_;
};

TEST_F(RecipeCommand, CheckSaysWhatTheRunWouldDo) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(recipe_check(kMinimal, {"train.steps=200"}, output_.string()), 0);
  EXPECT_EQ(testing::internal::GetCapturedStdout(),
            kMinimal +
                ": good\n"
                "    model       2 blocks (1 times \"mw\"), width 64, vocabulary 256\n"
                "    data        text (shards/train)\n"
                "    validation  shards/validation\n"
                "    steps       200 of 256 tokens in rows of 64: 0.0512 million tokens\n"
                "    folder      runs/minimal\n");
  EXPECT_EQ(nlohmann::json::parse(written()).at("tokens"), 51200);
}

TEST_F(RecipeCommand, CheckThrowsTheProblems) {
  EXPECT_THROW(recipe_check(kMinimal, {"train.stesp=200"}), Error);
}

TEST_F(RecipeCommand, ShowPrintsTheResolvedRecipe) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(recipe_show(kMinimal, {}, output_.string()), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_EQ(text, resolved_toml(load_recipe(kMinimal)));
  EXPECT_EQ(nlohmann::json::parse(written()).at("resolved_toml"), text);
}

TEST_F(RecipeCommand, ExplainPrintsEveryKeyOfASection) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(recipe_explain("checkpoint", output_.string()), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_NE(text.find("checkpoint.keep_every\n"), std::string::npos) << text;
  EXPECT_EQ(nlohmann::json::parse(written()).at(1).at("key"), "checkpoint.every_steps");
}

TEST_F(RecipeCommand, DocsWritesTheReferencePage) {
  EXPECT_EQ(recipe_docs(output_.string()), 0);
  EXPECT_EQ(written(), reference_page());
  try {
    recipe_docs("/no/such/folder/recipes.md");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
  }
}

}  // namespace
}  // namespace sidewinder
