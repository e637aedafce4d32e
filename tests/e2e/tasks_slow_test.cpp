// A tiny hybrid learns to copy and to recall across a distance that its windows cannot bridge: the
// states of its Mamba blocks carry the information. A model of windows alone, as large, cannot.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tools/assemble.h"
#include "tools/commands/synthesize.h"

namespace sidewinder {
namespace {

using testing::ProgramResult;
using testing::run_program;
using testing::TemporaryFolder;

// Share of answer bytes that the model gets right, on documents it has not seen.
double answer_accuracy(const std::string& run, const SynthesizeCommand& task) {
  TrainedModel trained = load_trained_model(run);
  int64_t right = 0;
  int64_t asked = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const SyntheticDocument document = synthetic_document(task, i);
    const std::vector<int32_t> tokens = trained.tokenizer->encode(document.text);
    const int64_t count = static_cast<int64_t>(tokens.size());
    const SequenceLayout layout = SequenceLayout::unpacked(1, count);
    const Tensor logits = trained.model->logits(dtype_of(trained.recipe.train.precision),
                                                {layout, layout}, Tensor::from<int32_t>({count}, tokens));
    for (const auto& [begin, end] : document.answers) {
      for (int64_t t = begin; t < end; ++t) {
        const std::vector<double> row = logits.slice_rows(t - 1, t).values();
        const int64_t best = std::max_element(row.begin(), row.end()) - row.begin();
        right += best == tokens[static_cast<size_t>(t)] ? 1 : 0;
        ++asked;
      }
    }
  }
  return static_cast<double>(right) / static_cast<double>(asked);
}

// Trains recipes/smoke/<task>.toml on data made as its comment says.
double train_and_measure(SynthesizeCommand task, const std::vector<std::string>& sets) {
  const TemporaryFolder folder;
  const auto run = [&](const std::vector<std::string>& arguments) {
    const ProgramResult result = run_program(arguments, folder.path());
    EXPECT_EQ(result.exit_code, 0) << result.errors;
  };
  run({"synthesize", task.task, "documents.jsonl", "--documents", std::to_string(task.documents),
       "--length", std::to_string(task.length), "--distance", std::to_string(task.distance)});
  run({"tokenize", "documents.jsonl", "--output", "corpus/" + task.task + "-tokens", "--tokenizer",
       "bytes"});
  std::vector<std::string> train = {
      "train", std::string(SIDEWINDER_SOURCE_DIR) + "/recipes/smoke/" + task.task + ".toml", "--set",
      "run.folder=run"};
  for (const std::string& set : sets) train.insert(train.end(), {"--set", set});
  run(train);
  task.seed = 99;
  return answer_accuracy(folder / "run", task);
}

const SynthesizeCommand kCopy{
    .task = "copy", .output = "", .documents = 40000, .length = 4, .distance = 16, .seed = 0};
const SynthesizeCommand kRecall{
    .task = "recall", .output = "", .documents = 100000, .length = 2, .distance = 6, .seed = 0};

TEST(Tasks, AHybridCopiesPastItsWindows) { EXPECT_GT(train_and_measure(kCopy, {}), 0.95); }

TEST(Tasks, AHybridRecallsPastItsWindows) { EXPECT_GT(train_and_measure(kRecall, {}), 0.95); }

TEST(Tasks, WindowsAloneCannotCopy) {
  // Two layers of window 8 reach 14 tokens back; a letter stands at least 19 before its copy.
  EXPECT_LT(train_and_measure(kCopy, {"model.layers=w", "train.steps=1000"}), 0.4);
}

}  // namespace
}  // namespace sidewinder
