// The [context] section: tables within tables, and what is inherited.

#include <gtest/gtest.h>

#include <fstream>

#include "kernels/base/error.h"
#include "recipes/recipe.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

const std::string kMinimal = std::string(SIDEWINDER_SOURCE_DIR) + "/tests/recipes/minimal.toml";

const std::string kStages = "extends = \"" + kMinimal + "\"\n" + R"(
[context]
curve = "stages"
unit = "row_slots"
learning_rate = "rewarm"
rewarm_steps = 5
validate_lengths = [32, 256]

[[context.stage]]
from = 0
length = 16

[context.stage.block.w]
window = 4

[[context.stage]]
from = 2560
length = 64
)";

std::string written(const testing::TemporaryFolder& folder, const std::string& text) {
  const std::string path = folder / "recipe.toml";
  std::ofstream(path) << text;
  return path;
}

TEST(ContextSection, StagesAreReadAndWritten) {
  const testing::TemporaryFolder folder;
  const Recipe recipe = load_recipe(written(folder, kStages));
  const ContextOptions& context = recipe.context;
  EXPECT_EQ(context.curve, ContextCurve::stages);
  EXPECT_EQ(context.unit, ContextUnit::row_slots);
  EXPECT_EQ(context.learning_rate, EdgeLearningRate::rewarm);
  EXPECT_EQ(context.rewarm_steps, 5);
  EXPECT_EQ(context.validate_lengths, (std::vector<int64_t>{32, 256}));
  ASSERT_EQ(context.stages.size(), 2U);
  EXPECT_EQ(context.stages[0].length, 16);
  EXPECT_EQ(context.stages[0].blocks.at("w").window, 4);
  EXPECT_EQ(context.stages[1].from, 2560);
  EXPECT_TRUE(context.stages[1].blocks.empty());
  const std::string text = resolved_toml(recipe);
  EXPECT_EQ(resolved_toml(parse_recipe(text, "stored")), text);
  EXPECT_TRUE(resume_conflicts(text, recipe).empty());
}

TEST(ContextSection, ASetCanTurnAScheduleOffOrMakeItAnother) {
  const testing::TemporaryFolder folder;
  const std::string path = written(folder, kStages);
  const Recipe constant = load_recipe(path, {"context.curve=constant"});
  EXPECT_TRUE(constant.context.stages.empty());
  EXPECT_EQ(constant.context.rewarm_steps, 0);
  const Recipe curve = load_recipe(
      path, {"context.curve=linear", "context.form=mask", "context.first=8", "context.ramp=2560"});
  EXPECT_TRUE(curve.context.stages.empty());
  EXPECT_EQ(curve.context.unit, ContextUnit::row_slots);
}

TEST(ContextSection, MayNotChangeWithinARunButForWhatIsValidated) {
  const testing::TemporaryFolder folder;
  const std::string path = written(folder, kStages);
  const std::string before = resolved_toml(load_recipe(path));
  EXPECT_TRUE(resume_conflicts(before, load_recipe(path, {"context.validate_at_edges=false",
                                                          "context.validate_lengths=[8]"}))
                  .empty());
  EXPECT_EQ(resume_conflicts(before, load_recipe(path, {"context.stage.1.from=5120"})),
            std::vector<std::string>{"context.stage.1.from: 2560 in the checkpoint, 5120 now"});
  // A recipe from before the section meant a constant context.
  std::string old = resolved_toml(load_recipe(kMinimal));
  const size_t begin = old.find("[context]");
  old.erase(begin, old.find("\n[", begin) + 1 - begin);
  EXPECT_EQ(old.find("validate_lengths"), std::string::npos);
  EXPECT_TRUE(resume_conflicts(old, load_recipe(kMinimal)).empty());
}

}  // namespace
}  // namespace sidewinder
