// `plan` on a corpus and a recipe, and the refusal of `train` that follows from it.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>

#include "data/loader.h"
#include "kernels/base/error.h"
#include "tests/support/program.h"
#include "tests/support/tiny_run.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

TEST(Plan, CountsTheDocumentsOfTheCorpus) {
  const testing::TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  const testing::ProgramResult done = testing::run_program(
      {"plan", "tiny.toml", "--lengths", "64,128", "--json", "plan.json"}, folder.path());
  ASSERT_EQ(done.exit_code, 0) << done.errors;
  EXPECT_NE(done.output.find("share of tokens by length:"), std::string::npos) << done.output;
  const nlohmann::json result = nlohmann::json::parse(testing::read_file(folder / "plan.json"));

  // What a run of the loader's own rows would count.
  Recipe recipe = load_recipe(folder / "tiny.toml");
  recipe.data.train[0].folder = folder / "tokens/train";
  const RowPlan rows{recipe.train.tokens_per_step / recipe.train.context, recipe.train.context};
  Loader loader(recipe.data, recipe.run.seed, [rows](const Progress&) { return rows; });
  HybridModel model(recipe.model, Initializer{});
  double flops = 0;
  double tokens = 0;
  for (int step = 0; step < 90; ++step) {  // ten epochs
    const Batch batch = loader.next();
    const Layouts layouts = layouts_of(batch, recipe.data);
    flops += model.training_flops(layouts.attention, batch.rows * batch.row_length);
    tokens += static_cast<double>(batch.rows * batch.row_length);
  }
  // Padding counts there and not here; the tiny rows have a few percent of it.
  EXPECT_NEAR(result["mfu_flops_per_token"].get<double>() / (flops / tokens), 1.0, 0.02);
  EXPECT_EQ(result["by_length"].size(), 2U);
  EXPECT_LT(result["by_length"][0]["peak_bytes"].get<int64_t>(),
            result["by_length"][1]["peak_bytes"].get<int64_t>());
}

TEST(Train, RefusesBeforeAllocatingWhatDoesNotFit) {
  const testing::TemporaryFolder folder;
  testing::write_tiny_recipe(folder);
  const testing::ProgramResult done = testing::run_program(
      {"train", "tiny.toml", "--set", "model.width=65536", "--set", "model.repeat=100"},
      folder.path());
  EXPECT_EQ(done.exit_code, static_cast<int>(ExitCode::environment));
  EXPECT_NE(done.errors.find("this run needs "), std::string::npos) << done.errors;
  EXPECT_NE(done.errors.find("--allow-too-little-memory"), std::string::npos) << done.errors;
  EXPECT_FALSE(std::filesystem::exists(folder / "runs"));
}

// Whose ids and positions alone would take more than there is.
TEST(Train, RefusesRowsOfABillionTokensWithoutMakingThem) {
  const testing::TemporaryFolder folder;
  testing::write_tiny_recipe(folder);
  const std::vector<std::string> keys = {"--set", "train.context=1000000007",
                                         "--set", "train.tokens_per_step=1000000007",
                                         "--set", "train.tokens_per_micro_batch=0"};
  for (const std::string command : {"train", "plan"}) {
    std::vector<std::string> arguments = {command, "tiny.toml"};
    arguments.insert(arguments.end(), keys.begin(), keys.end());
    const testing::ProgramResult done = testing::run_program(arguments, folder.path());
    if (command == "plan") {
      EXPECT_EQ(done.exit_code, 0) << done.errors;
      EXPECT_NE(done.output.find(" TiB"), std::string::npos) << done.output;
      continue;
    }
    EXPECT_EQ(done.exit_code, static_cast<int>(ExitCode::environment)) << done.errors;
    EXPECT_NE(done.errors.find("micro-batches of 1000000007 tokens"), std::string::npos);
    EXPECT_NE(done.errors.find("are available"), std::string::npos);
  }
}

}  // namespace
}  // namespace sidewinder
