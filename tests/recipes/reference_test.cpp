#include "recipes/reference.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>

#include "kernels/base/error.h"
#include "recipes/schema.h"

namespace sidewinder {
namespace {

TEST(RecipeReference, ThePageInTheTreeIsCurrent) {
  std::ifstream file(std::string(SIDEWINDER_SOURCE_DIR) + "/docs/recipes.md", std::ios::binary);
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(page, reference_page()) << "run `sidewinder recipe docs docs/recipes.md`";
}

TEST(RecipeReference, ExplainsAKey) {
  const auto found = explain("train.precision");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(
      found[0].text,
      "train.precision\n"
      "    type of activations and of the weights in matrix products; master weights, sums and "
      "states are f32 (f64 with f64, which is for checks)\n"
      "    value      \"f32\", \"bf16\" or \"f64\"\n"
      "    default    \"bf16\"\n"
      "    on resume  fixed\n");
}

TEST(RecipeReference, ExplainsAKeyOfABlockUnderAnyName) {
  const auto by_letter = explain("model.block.w.window");
  ASSERT_EQ(by_letter.size(), 1U);
  EXPECT_EQ(by_letter[0].path, "model.block.<letter>.window");
  EXPECT_NE(by_letter[0].text.find("only with  mixer = \"attention\" and pattern = \"window\", "
                                   "\"dilated\", \"strided\", \"global_window\", "
                                   "\"sink_window\" or \"bigbird\"\n"),
            std::string::npos);
  EXPECT_EQ(explain("window").at(0).text, by_letter[0].text);
  EXPECT_EQ(explain("model.block.<letter>.window").at(0).text, by_letter[0].text);
}

TEST(RecipeReference, ExplainsASectionWithItsTables) {
  const auto found = explain("data");
  ASSERT_GE(found.size(), 10U);
  EXPECT_EQ(found.front().path, "data");
  EXPECT_EQ(found.back().path, "data.train.weight");
}

TEST(RecipeReference, SuggestsTheNearestKey) {
  try {
    explain("train.stesp");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    EXPECT_STREQ(error.what(),
                 "train.stesp: there is no such key\n    did you mean `train.steps`?");
  }
}

TEST(RecipeSchema, EveryKeyHasHelpAndConditionsThatExist) {
  std::set<std::string> keys;
  for (const Section& section : sections()) {
    for (const TableInfo& table : section.tables) {
      EXPECT_FALSE(table.help.empty()) << table.path;
      for (const FieldInfo& field : table.fields) {
        const std::string path = schema::child(table.path, field.key);
        EXPECT_TRUE(keys.insert(path).second) << path;
        EXPECT_FALSE(field.help.empty()) << path;
        EXPECT_NE(field.default_value, "\"?\"") << path;
        for (const Condition& condition : field.conditions) {
          EXPECT_NE(find_schema_key(schema::child(table.path, condition.key)).field, nullptr)
              << path;
        }
      }
    }
  }
  EXPECT_GE(keys.size(), 60U);
}

}  // namespace
}  // namespace sidewinder
