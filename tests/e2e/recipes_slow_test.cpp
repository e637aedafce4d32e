// Every recipe of the tree runs: made small in width, length and steps, it goes through all its
// stages, measures what it is to measure, and is evaluated. Those that start from another model
// get it from that model's recipe, made small in the same way.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "recipes/recipe.h"
#include "tests/support/program.h"
#include "tests/support/tiny_run.h"
#include "tools/memory_plan.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using testing::run_program;
using testing::TemporaryFolder;

const std::string kRecipes = std::string(SIDEWINDER_SOURCE_DIR) + "/recipes/";

// By name under recipes/, without .toml.
std::vector<std::string> shipped_recipes() {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(kRecipes)) {
    if (entry.path().extension() != ".toml") continue;
    names.push_back(fs::relative(entry.path(), kRecipes).replace_extension().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string path_of(const std::string& name) { return kRecipes + name + ".toml"; }

// The recipe whose run a recipe starts from; empty: none, or a model from elsewhere.
std::string parent_of(const Recipe& recipe) {
  static const std::map<std::string, std::string> kParents = {
      {"runs/full-20m", "pretrain/full-20m"},
      {"runs/mamba-full-20m", "pretrain/mamba-full-20m"},
      {"runs/samba-20m", "pretrain/samba-20m"},
      {"runs/study/full-1", "study/full"},
      {"runs/study/hybrid-1", "study/hybrid"}};
  const auto found = kParents.find(recipe.init.from);
  return found == kParents.end() ? "" : found->second;
}

// All lengths are divided by this.
int64_t shrinkage_of(const Recipe& recipe) {
  const int64_t context = recipe.train.context;
  return context >= 32768 ? 256 : context >= 2048 ? 64 : context >= 512 ? 8 : 1;
}

// What makes a recipe small, as arguments of --set.
std::vector<std::string> shrunk(const Recipe& recipe, int64_t by) {
  std::vector<std::string> sets;
  const auto set = [&](const std::string& key, const auto& value) {
    sets.emplace_back("--set");
    sets.push_back(fmt::format("{}={}", key, value));
  };
  const auto stages = static_cast<int64_t>(recipe.context.stages.size());
  const int64_t context = recipe.train.context / by;
  const int64_t steps = std::max<int64_t>(2, stages);
  set("model.width", 64);
  set("model.vocabulary", 256);
  set("model.repeat", 1);
  set("data.train", R"([{name="text", folder="tokens/train"}])");
  set("data.validation", "tokens/validation");
  set("data.packing_buffer", 4);
  set("train.context", context);
  set("train.tokens_per_step", 2 * context);
  set("train.tokens_per_micro_batch", 2 * context);
  set("train.steps", steps);
  set("train.log_every", 1);
  set("train.validate_every", 0);
  set("train.validate_tokens", 0);
  set("learning_rate.warmup_steps", 1);
  set("checkpoint.every_steps", 0);
  set("checkpoint.keep_every", 0);
  for (const auto& [letter, block] : recipe.model.blocks) {
    const std::string path = "model.block." + letter + ".";
    if (block.window > 0) set(path + "window", std::max<int64_t>(1, block.window / by));
    if (block.rope_scaling != RopeScalingKind::none) {
      set(path + "rope_original_context", block.rope_original_context / by);
    }
  }
  for (int64_t i = 0; i < stages; ++i) {
    const StageOptions& stage = recipe.context.stages[static_cast<size_t>(i)];
    const std::string path = fmt::format("context.stage.{}.", i);
    set(path + "from", i);
    set(path + "length", stage.length / by);
    for (const auto& [letter, block] : stage.blocks) {
      if (block.window > 0) {
        set(fmt::format("{}block.{}.window", path, letter),
            std::max<int64_t>(1, block.window / by));
      }
    }
  }
  if (recipe.context.rewarm_steps > 0) set("context.rewarm_steps", 1);
  if (recipe.context.ramp > 0) set("context.ramp", 1);
  if (recipe.context.first > 0) set("context.first", recipe.context.first / by);
  if (!recipe.context.validate_lengths.empty()) set("context.validate_lengths", "[8]");
  if (recipe.extend.from_context > 0) {
    set("extend.from_context", recipe.extend.from_context / by);
    set("extend.max_regression", 100);
    set("extend.min_gain", -100);
  }
  return sets;
}

std::vector<std::string> joined(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class ShippedRecipes : public ::testing::Test {
 protected:
  void SetUp() override {
    // Some fit in the shortest rows.
    testing::make_letter_corpus(folder_, {.lengths = [](int i) {
                                  return testing::LetterCorpus::Lengths{3, i % 4 == 0 ? 8U : 219U};
                                }});
  }

  void good(const std::vector<std::string>& arguments) {
    const testing::ProgramResult result = run_program(arguments, folder_.path());
    EXPECT_EQ(result.exit_code, 0) << result.errors;
  }

  // The run that a recipe of that shrinkage starts from, made if it is not there.
  std::string model_for(const Recipe& recipe, int64_t by) {
    const std::string name = parent_of(recipe);
    std::string folder =
        fmt::format("runs/{}-{}", name.empty() ? "elsewhere" : fs::path(name).stem().string(), by);
    if (fs::exists(folder_ / folder)) return folder;
    if (!name.empty()) {
      const Recipe parent = load_recipe(path_of(name));
      good(joined({"train", path_of(name), "--set", "run.folder=" + folder}, shrunk(parent, by)));
      return folder;
    }
    // A model that was not trained here: the same without scaling and schedule.
    Recipe plain = recipe;
    for (auto& [letter, block] : plain.model.blocks) {
      block.rope_scaling = RopeScalingKind::none;
      block.rope_original_context = 0;
    }
    plain.init = {};
    plain.extend = {};
    plain.context = {};
    plain.train.context = recipe.extend.from_context;
    std::ofstream(folder_ / "elsewhere.toml") << resolved_toml(plain);
    good(joined({"train", "elsewhere.toml", "--set", "run.folder=" + folder}, shrunk(plain, by)));
    return folder;
  }

  TemporaryFolder folder_;
};

TEST_F(ShippedRecipes, TrainThroughAllTheirStagesWhenMadeSmall) {
  for (const std::string& name : shipped_recipes()) {
    SCOPED_TRACE(name);
    const Recipe recipe = load_recipe(path_of(name));
    const int64_t by = shrinkage_of(recipe);
    std::vector<std::string> arguments =
        joined({recipe.extend.from_context > 0 ? "extend" : "train", path_of(name), "--set",
                "run.folder=run"},
               shrunk(recipe, by));
    if (!recipe.init.from.empty()) {
      arguments.insert(arguments.end(), {"--set", "init.from=" + model_for(recipe, by)});
    }
    fs::remove_all(folder_ / "run");
    good(arguments);
    // Every stage was trained in, at the length that it should have.
    std::vector<int64_t> lengths;
    bool validated = false;
    std::ifstream metrics(folder_ / "run/metrics.jsonl");
    for (std::string line; std::getline(metrics, line);) {
      const nlohmann::json record = nlohmann::json::parse(line);
      if (record.contains("train/context")) lengths.push_back(record["train/context"]);
      validated = validated || record.contains("validation/loss");
    }
    EXPECT_TRUE(validated);
    ASSERT_FALSE(lengths.empty());
    EXPECT_EQ(lengths.back(), recipe.train.context / by);
    for (size_t i = 0; i < recipe.context.stages.size(); ++i) {
      EXPECT_EQ(lengths.at(i), recipe.context.stages[i].length / by);
    }
    if (recipe.extend.from_context > 0) {
      EXPECT_TRUE(fs::exists(folder_ / "run/extension.json"));
    }
    good({"eval", "run", "--data", "tokens/validation"});
  }
}

// As they are: no memory is taken, whatever their size.
TEST_F(ShippedRecipes, ArePlannedAsTheyAre) {
  for (const std::string& name : shipped_recipes()) {
    SCOPED_TRACE(name);
    const MemoryPlan plan = plan_memory(load_recipe(path_of(name)));
    EXPECT_GT(plan.parameter_bytes, 0);
    EXPECT_GT(plan.peak_bytes, plan.parameter_bytes + plan.moment_bytes);
    EXPECT_LT(plan.peak_bytes, int64_t{24} << 30)
        << "more than its readers can be expected to have";
  }
}

}  // namespace
}  // namespace sidewinder
