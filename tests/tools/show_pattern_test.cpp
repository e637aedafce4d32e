#include "tools/commands/show_pattern.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "tests/support/message_of.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::TemporaryFolder;

TEST(ShowPattern, PrintsGridAndCells) {
  const TemporaryFolder folder;
  const testing::ProgramResult shown =
      testing::run_program({"show", "pattern", "sink_window", "--length", "8", "--window", "3",
                            "--global-tokens", "1", "--json", "pattern.json"},
                           folder.path());
  ASSERT_EQ(shown.exit_code, 0) << shown.errors;
  EXPECT_EQ(shown.output,
            "sink_window, window 3, global_tokens 1; a row is a query, a column a key\n"
            "#.......\n"
            "##......\n"
            "###.....\n"
            "####....\n"
            "#.###...\n"
            "#..###..\n"
            "#...###.\n"
            "#....###\n"
            "26 of 36 causal cells, 72.2 %; 3 tiles of 4 x 4 to visit\n");
  const nlohmann::json json = nlohmann::json::parse(testing::read_file(folder / "pattern.json"));
  EXPECT_EQ(json["cells"], 26);
  EXPECT_EQ(json["parameters"]["window"], 3);
  EXPECT_EQ(json["grid"][4], "#.###...");
}

TEST(ShowPattern, CountsOfThePublishedPictures) {
  struct Row {
    std::string name;
    std::map<std::string, std::optional<int64_t>> values;
    int64_t cells;
  };
  const std::vector<Row> rows = {
      {"full", {}, 300},
      {"window", {{"window", 4}}, 90},
      {"window", {{"window", 8}}, 164},
      {"dilated", {{"window", 4}, {"dilation", 3}}, 78},
      {"strided", {{"window", 1}, {"stride", 6}}, 60},
      {"strided", {{"window", 4}, {"stride", 4}}, 150},
      {"fixed", {{"pattern_block", 4}, {"summary", 2}}, 180},
      {"chunked", {{"pattern_block", 8}}, 108},
      {"global_window", {{"window", 4}, {"global_tokens", 2}}, 129},
      {"sink_window", {{"window", 8}, {"global_tokens", 4}}, 222},
      {"bigbird", {{"window", 4}, {"global_tokens", 2}, {"random_blocks", 3}}, 180},
  };
  const TemporaryFolder folder;
  for (const Row& row : rows) {
    ShowPatternCommand command;
    command.name = row.name;
    for (const auto& [key, value] : row.values) command.values[key] = value;
    command.json_path = folder / "pattern.json";
    ::testing::internal::CaptureStdout();
    show_pattern(command);
    ::testing::internal::GetCapturedStdout();
    const nlohmann::json json = nlohmann::json::parse(testing::read_file(folder / "pattern.json"));
    EXPECT_EQ(json["cells"], row.cells) << row.name;
  }
}

TEST(ShowPattern, RefusesWhatDoesNotFit) {
  const auto message = [](const std::string& name, const std::string& key, int64_t value) {
    ShowPatternCommand command;
    command.name = name;
    if (!key.empty()) command.values[key] = value;
    return testing::message_of([&] { show_pattern(command); });
  };
  EXPECT_EQ(message("sliding", "", 0),
            "pattern \"sliding\" is unknown; use one of full, window, dilated, strided, "
            "global_window, sink_window, bigbird, fixed, chunked");
  EXPECT_EQ(message("window", "stride", 3),
            "--stride has no effect on pattern window, which has window");
  EXPECT_EQ(message("full", "window", 3),
            "--window has no effect on pattern full, which has no parameters");
  EXPECT_EQ(message("window", "window", 0), "--window is 0; use at least 1");
  EXPECT_EQ(message("chunked", "pattern_block", 0), "--pattern-block is 0; use at least 1");
  EXPECT_EQ(message("bigbird", "pattern_block", 3),
            "pattern bigbird: window 4 is not a multiple of block 3");
}

}  // namespace
}  // namespace sidewinder
