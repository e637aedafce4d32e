#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>

#include "kernels/base/error.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"
#include "tools/commands/bench_data.h"
#include "tools/commands/bench_documents.h"

namespace sidewinder {
namespace {

TEST(BenchData, WritesWhatItMeasured) {
  const testing::TemporaryFolder folder;
  const std::string path = folder / "data.json";
  EXPECT_EQ(bench_data({.check = false, .json_path = path, .only = {"pack"}}), ExitCode::success);
  const nlohmann::json report = nlohmann::json::parse(testing::read_file(path));
  ASSERT_EQ(report.size(), 2U);
  for (const nlohmann::json& entry : report) {
    EXPECT_GT(entry.at("rate").get<double>(), 0);
    EXPECT_EQ(entry.at("bar"), 50);
    EXPECT_EQ(entry.at("unit"), "M tokens/s");
  }
}

TEST(BenchData, NamesWhatThereIs) {
  try {
    bench_data({.only = {"softmax"}});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    EXPECT_NE(std::string(error.what()).find("there are: tokenize, pack"), std::string::npos);
  }
}

TEST(BenchDocuments, ComparesDocumentsOfSeveralLengths) {
  const testing::TemporaryFolder folder;
  testing::write_tiny_recipe(folder);
  const std::string path = folder / "documents.json";
  EXPECT_EQ(bench_documents({.recipe = folder / "tiny.toml", .steps = 2, .json_path = path}),
            ExitCode::success);
  const nlohmann::json report = nlohmann::json::parse(testing::read_file(path));
  EXPECT_GT(report.at("short_documents_ratio").get<double>(), 0);
  EXPECT_GE(report.at("slowest_over_median").get<double>(), 1);
  EXPECT_EQ(report.at("any_length_seconds").size(), 2U);
}

}  // namespace
}  // namespace sidewinder
