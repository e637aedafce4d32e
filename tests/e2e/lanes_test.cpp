// A run whose documents go on from step to step with their states, and what measures it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>

#include "tests/support/program.h"
#include "tests/support/tiny_run.h"

namespace sidewinder {
namespace {

using testing::run_program;
using testing::TemporaryFolder;

TEST(CarriedRun, EvalSaysWhatItsValidationSaid) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_growing_recipes(folder);
  const auto good = [&](const std::vector<std::string>& arguments) {
    testing::ProgramResult result = run_program(arguments, folder.path());
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    return result;
  };
  // Rows much shorter than the documents; with it, the losses at a context of the same length.
  const std::vector<std::string> sets = {
      "--set", "context.curve=constant", "--set", "train.context=16",
      "--set", "train.precision=f32",    "--set", "data.validation=tokens/train",
      "--set", "train.steps=4"};
  std::vector<std::string> train = {"train", "carried.toml"};
  train.insert(train.end(), sets.begin(), sets.end());
  good(train);
  double validation = 0;
  std::ifstream metrics(folder / "runs/carried/metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    if (record.contains("validation/loss")) validation = record["validation/loss"];
  }
  const auto loss = [&](const std::vector<std::string>& more) {
    std::vector<std::string> eval = {"eval",         "runs/carried", "--data",
                                     "tokens/train", "--json",       "eval.json"};
    eval.insert(eval.end(), more.begin(), more.end());
    const bool says_so =
        good(eval).output.find("going on from row to row with their states") != std::string::npos;
    EXPECT_EQ(says_so, more.empty());
    return nlohmann::json::parse(testing::read_file(folder / "eval.json"));
  };
  const nlohmann::json carried = loss({});
  EXPECT_NEAR(carried["loss"].get<double>(), validation, 1e-5);
  EXPECT_GT(carried["by_position"].back()["last"], 64);  // positions in documents, not in rows
  const nlohmann::json anew = loss({"--context", "16"});
  EXPECT_EQ(anew["by_position"].back()["last"], 15);
  EXPECT_GT(std::abs(anew["loss"].get<double>() - validation), 1e-3);
  EXPECT_EQ(anew["targets"], carried["targets"]);
}

}  // namespace
}  // namespace sidewinder
