// Retrieval tasks asked of a model by the program: the result, and what is refused before any work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace sidewinder {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using testing::TemporaryFolder;

class EvalTasks : public ::testing::Test {
 protected:
  ProgramResult run(const std::vector<std::string>& arguments) {
    return run_program(arguments, folder_.path());
  }
  // A bytes model that has seen three steps.
  void train(const std::vector<std::string>& sets = {}) {
    testing::make_tiny_corpus(folder_);
    testing::write_tiny_recipe(folder_);
    std::vector<std::string> command = {"train", "tiny.toml", "--set", "train.steps=3"};
    for (const std::string& set : sets) command.insert(command.end(), {"--set", set});
    const ProgramResult result = run(command);
    ASSERT_EQ(result.exit_code, 0) << result.errors;
  }
  TemporaryFolder folder_;
};

TEST_F(EvalTasks, WritesCellsAndRepeatsThem) {
  train();
  const std::vector<std::string> command = {
      "eval",      "runs/tiny", "--tasks",     "passkey,mqar:pairs=4,copy,niah_single_1",
      "--lengths", "800,700",   "--depths",    "3",
      "--trials",  "2",         "--seed",      "4",
      "--json",    "a.json",    "--trials-to", "a.jsonl"};
  const ProgramResult first = run(command);
  ASSERT_EQ(first.exit_code, 0) << first.errors;
  EXPECT_THAT(first.output, AllOf(HasSubstr("passkey: score in percent by length and depth"),
                                  HasSubstr("of 6 cells"), HasSubstr("RULER: mean of 1 tasks")));
  EXPECT_THAT(first.errors, HasSubstr("mqar:pairs=4 at length 800"));
  const std::string text = testing::read_file(folder_ / "a.json");
  const nlohmann::json json = nlohmann::json::parse(text);
  EXPECT_EQ(json.at("step"), 3);
  ASSERT_EQ(json.at("tasks").size(), 4u);
  const nlohmann::json& cells = json.at("tasks")[0].at("cells");
  ASSERT_EQ(cells.size(), 6u);
  EXPECT_EQ(cells[0].at("length"), 700);
  EXPECT_EQ(cells[1].at("depth"), 0.5);
  EXPECT_EQ(cells[5].at("depth"), 1.0);
  EXPECT_EQ(cells[5].at("trials"), 2);
  EXPECT_LE(cells[5].at("score").get<double>(), 1.0);
  EXPECT_EQ(json.at("tasks")[1].at("cells").size(), 2u);
  EXPECT_FALSE(json.at("tasks")[1].at("cells")[0].contains("depth"));
  EXPECT_EQ(json.at("ruler").at("by_length").size(), 2u);
  std::istringstream lines(testing::read_file(folder_ / "a.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_TRUE(nlohmann::json::parse(line).contains("completion"));
  }
  EXPECT_EQ(count, 2 * 3 * 2 + 3 * 2 * 2);
  ASSERT_EQ(run(command).exit_code, 0);
  EXPECT_EQ(testing::read_file(folder_ / "a.json"), text);
}

// --set is easily forgotten on one of eval's three ways: by context, by lengths, by tasks.
TEST_F(EvalTasks, PerplexityByLengthUsesTheKeysThatAreSet) {
  train();
  const auto loss = [this](const std::string& base) {
    const ProgramResult result =
        run({"eval", "runs/tiny", "--data", "tokens/validation", "--lengths", "16", "--set",
             "model.block.w.rope_base=" + base, "--json", "a.json"});
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    const auto json = nlohmann::json::parse(testing::read_file(folder_ / "a.json"));
    return json.at("by_length")[0].at("loss").get<double>();
  };
  EXPECT_NE(loss("10000"), loss("100"));
}

TEST_F(EvalTasks, WhatCannotBeAskedIsRefused) {
  train();
  const auto refused = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"eval", "runs/tiny", "--json", "b.json"});
    const ProgramResult result = run(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.output;
    EXPECT_EQ(result.output, "");
    EXPECT_FALSE(std::filesystem::exists(folder_ / "b.json"));
    return result.errors;
  };
  EXPECT_THAT(refused({"--tasks", "passky"}), HasSubstr("did you mean passkey?"));
  // The recipe's context of 64 is too short for the needle.
  EXPECT_THAT(refused({"--tasks", "mqar,passkey"}),
              AllOf(HasSubstr("passkey needs at least 2"), HasSubstr("but the length is 64")));
  EXPECT_THAT(refused({"--tasks", "passkey", "--lengths", "1000,200"}),
              HasSubstr("but the length is 200"));
  EXPECT_THAT(refused({"--tasks", "niah_single_2", "--lengths", "900"}), HasSubstr("--haystack"));
  EXPECT_THAT(refused({"--tasks", "passkey", "--depths", "0"}), HasSubstr("--depths is 0"));
  EXPECT_THAT(refused({"--tasks", "passkey", "--trials", "0"}), HasSubstr("--trials is 0"));
  EXPECT_THAT(refused({"--tasks", "passkey", "--bos"}), HasSubstr("BOS"));
  EXPECT_THAT(refused({"--tasks", "passkey", "--text", "a.txt"}), HasSubstr("--tasks"));
  EXPECT_THAT(refused({"--depths", "3"}), HasSubstr("--tasks"));
  const ProgramResult nowhere =
      run({"eval", "runs/tiny", "--tasks", "niah", "--haystack", "nowhere"});
  EXPECT_EQ(nowhere.exit_code, 3);
  EXPECT_THAT(nowhere.errors, HasSubstr("nowhere"));
}

TEST_F(EvalTasks, AMissingTokenizerIsNotTakenForBytes) {
  testing::make_tiny_corpus(folder_);
  testing::write_tiny_recipe(folder_);
  ASSERT_EQ(run({"tokenize", "documents.jsonl", "--output", "pieces", "--vocabulary", "300",
                 "--hold-out", "0.3"})
                .exit_code,
            0);
  const ProgramResult trained =
      run({"train", "tiny.toml", "--set", "train.steps=3", "--set", "model.vocabulary=300", "--set",
           "data.train.0.folder=pieces", "--set", "data.validation=pieces/validation"});
  ASSERT_EQ(trained.exit_code, 0) << trained.errors;
  const std::vector<std::string> command = {"eval", "runs/tiny", "--tasks", "passkey",  "--lengths",
                                            "600",  "--depths",  "1",       "--trials", "1"};
  EXPECT_EQ(run(command).exit_code, 0);
  std::filesystem::remove(folder_ / "runs/tiny/tokenizer.model");
  const ProgramResult result = run(command);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("no tokenizer.model"));
}

TEST_F(EvalTasks, SynthesizeRefusesWhatItCannotWrite) {
  EXPECT_THAT(run({"synthesize", "coppy", "a.jsonl"}).errors, HasSubstr("did you mean copy?"));
  EXPECT_THAT(run({"synthesize", "passkey", "a.jsonl", "--lengths", "100"}).errors,
              HasSubstr("but the length is 100"));
  EXPECT_THAT(run({"synthesize", "mqar:vocabulary=200", "a.jsonl"}).errors,
              HasSubstr("vocabulary is 200"));
  EXPECT_EQ(run({"synthesize", "passkey", "a.jsonl", "--documents", "0"}).exit_code, 2);
}

}  // namespace
}  // namespace sidewinder
