#include "tools/commands/show_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>

#include "kernels/base/error.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryFolder;

const std::string kMinimal = std::string(SIDEWINDER_SOURCE_DIR) + "/tests/recipes/minimal.toml";

TEST(ShowSchedule, PrintsEveryStage) {
  const TemporaryFolder folder;
  std::ofstream(folder / "stages.toml") << "extends = \"" << kMinimal << "\"\n"
                                        << R"(
[learning_rate]
shape = "constant"
[context]
curve = "stages"
learning_rate = "rewarm"
rewarm_steps = 10
[[context.stage]]
from = 0
length = 16
[context.stage.block.w]
window = 4
[[context.stage]]
from = 40
length = 64
)";
  const testing::ProgramResult shown = testing::run_program(
      {"show", "schedule", "stages.toml", "--json", "table.json"}, folder.path());
  ASSERT_EQ(shown.exit_code, 0) << shown.errors;
  EXPECT_EQ(
      shown.output,
      "from step      row slots  stage   context    rows  row length  fragment  learning rate "
      "      window w\n"
      "        1              0      0        16      16          16         -     1.0000e-03 "
      "             4\n"
      "       41          10240      1        64       4          64         -     1.0000e-04 "
      "             8\n"
      "100 steps, 25600 row slots, 2 plans\n");
  const nlohmann::json table = nlohmann::json::parse(testing::read_file(folder / "table.json"));
  ASSERT_EQ(table.size(), 2U);
  EXPECT_EQ(table[1]["step"], 41);
  EXPECT_EQ(table[1]["rows"], 4);
  EXPECT_EQ(table[0]["window w"], 4);
}

TEST(ShowSchedule, ThinsCurvesAndSaysSo) {
  ShowScheduleCommand command;
  command.recipe = kMinimal;
  command.sets = {"context.curve=linear", "context.form=mask", "context.first=14",
                  "context.ramp=100"};
  command.rows = 5;
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(show_schedule(command), ExitCode::success);
  const std::string output = ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(std::count(output.begin(), output.end(), '\n'), 7);
  EXPECT_THAT(output, HasSubstr("50 plans (5 shown; --rows 0 shows all)"));
  command.rows = -1;
  EXPECT_THROW(show_schedule(command), Error);
}

}  // namespace
}  // namespace sidewinder
