// Tiny hybrids learn to copy, to recall and to find a pass key across distances that their windows
// cannot bridge: the states of their Mamba blocks carry the information. A model of windows alone, as
// large, cannot.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::ProgramResult;
using testing::run_program;
using testing::TemporaryFolder;

struct Lesson {
  std::string recipe;     // recipes/smoke/<recipe>.toml
  std::string task;       // as its comment says
  std::string documents;  // how many
  std::string lengths;    // of documents, in tokens
};

const Lesson kCopy = {"copy", "copy:most=4:distance=16", "40000", "64"};
const Lesson kRecall = {"recall", "recall:most=4:distance=6:queries=24", "40000", "64"};

// Mean score at `lengths` of the recipe trained on data made as its comment says. Examples are drawn
// apart from the documents (of one to four letters there are so few that most are among them).
double train_and_measure(const Lesson& lesson, const std::string& lengths,
                         const std::vector<std::string>& sets) {
  const TemporaryFolder folder;
  const auto run = [&](const std::vector<std::string>& arguments) {
    const ProgramResult result = run_program(arguments, folder.path());
    EXPECT_EQ(result.exit_code, 0) << result.errors;
  };
  run({"synthesize", lesson.task, "documents.jsonl", "--documents", lesson.documents, "--lengths",
       lesson.lengths});
  run({"tokenize", "documents.jsonl", "--output", "corpus/" + lesson.recipe + "-tokens", "--tokenizer",
       "bytes", "--keep-duplicates"});
  std::vector<std::string> train = {
      "train", std::string(SIDEWINDER_SOURCE_DIR) + "/recipes/smoke/" + lesson.recipe + ".toml",
      "--set", "run.folder=run"};
  for (const std::string& set : sets) train.insert(train.end(), {"--set", set});
  run(train);
  run({"eval", "run", "--tasks", lesson.task, "--lengths", lengths, "--depths", "5", "--trials", "40",
       "--json", "scores.json"});
  const auto json = nlohmann::json::parse(testing::read_file(folder / "scores.json"));
  return json.at("tasks")[0].at("mean");
}

TEST(Tasks, AHybridCopiesPastItsWindows) {
  EXPECT_GT(train_and_measure(kCopy, "64", {}), 0.95);
}

TEST(Tasks, AHybridRecallsPastItsWindows) {
  EXPECT_GT(train_and_measure(kRecall, "64", {}), 0.95);
}

TEST(Tasks, WindowsAloneCannotCopy) {
  // Two layers of window 8 reach 14 tokens back; a letter stands at least 19 before its copy.
  EXPECT_LT(train_and_measure(kCopy, "64", {"model.layers=w", "train.steps=1000"}), 0.4);
}

TEST(Tasks, WindowsAloneCannotRecall) {
  // A layer of window 2 reaches 1 token back; a value stands at least 9 before it is asked for.
  EXPECT_LT(train_and_measure(kRecall, "64", {"model.layers=w", "train.steps=400"}), 0.4);
}

}  // namespace
}  // namespace sidewinder
