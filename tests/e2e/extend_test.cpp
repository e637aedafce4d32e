// A small model is trained at 32 tokens and extended to 64 and 128: what is measured, where it
// stops, and that a killed extension goes on as if it had not been.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>

#include "tests/support/program.h"
#include "tests/support/tiny_run.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using testing::TemporaryFolder;

constexpr const char* kBase = R"(
[model]
width = 32
vocabulary = 256
layers = "g"
[model.block.g]
mixer = "attention"
head_width = 16
hidden = 64
[data]
validation = "tokens/validation"
[[data.train]]
name = "documents"
folder = "tokens/train"
[train]
steps = 6
context = 32
tokens_per_step = 128
precision = "f32"
[learning_rate]
peak = 1e-2
warmup_steps = 2
[checkpoint]
every_steps = 2
)";

constexpr const char* kExtension = R"(
extends = "base.toml"
[init]
from = "runs/base"
[extend]
from_context = 32
max_regression = 100.0
min_gain = -100.0
[model.block.g]
rope_scaling = "yarn"
rope_factor = 4.0
rope_original_context = 32
[train]
context = 128
[context]
curve = "stages"
[[context.stage]]
from = 0
length = 64
[[context.stage]]
from = 3
length = 128
)";

class Extend : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::make_letter_corpus(folder_, {.lengths = [](int) {
                                  return testing::LetterCorpus::Lengths{80, 219};
                                }});
    std::ofstream(folder_ / "base.toml") << kBase;
    std::ofstream(folder_ / "longer.toml") << kExtension;
    good({"train", "base.toml"});
  }

  ProgramResult run(const std::vector<std::string>& arguments) {
    return run_program(arguments, folder_.path());
  }
  ProgramResult good(const std::vector<std::string>& arguments) {
    ProgramResult result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    return result;
  }
  nlohmann::json read(const std::string& path) {
    std::ifstream file(folder_ / path);
    return nlohmann::json::parse(file);
  }

  TemporaryFolder folder_;
};

TEST_F(Extend, MeasuresBeforeAndAtEveryStage) {
  const ProgramResult done = good({"extend", "longer.toml"});
  EXPECT_THAT(done.output, HasSubstr("far loss"));
  std::vector<std::string> seen;
  const nlohmann::json record = read("runs/longer/extension.json");
  for (const nlohmann::json& m : record["measurements"]) {
    seen.push_back(m["when"].get<std::string>() + " " + std::to_string(m["step"].get<int>()) + " " +
                   std::to_string(m["context"].get<int>()));
    // Far are the positions from 32 on.
    EXPECT_EQ(m["far_targets"].get<int>() > 0, m["context"].get<int>() > 32);
    EXPECT_LT(m["far_targets"].get<int>(), m["targets"].get<int>());
  }
  EXPECT_EQ(seen, (std::vector<std::string>{"before 0 32", "before 0 64", "before 0 128",
                                            "untrained 0 32", "untrained 0 64", "untrained 0 128",
                                            "trained 3 32", "trained 3 64", "trained 6 32",
                                            "trained 6 64", "trained 6 128"}));
  // What was measured before is what eval says of the model; at the end, of the extended one.
  for (const auto& [model, index, context] : {std::tuple{"runs/base", 0, "32"},
                                              {"runs/base", 2, "128"},
                                              {"runs/longer", 8, "32"},
                                              {"runs/longer", 10, "128"}}) {
    good({"eval", model, "--data", "tokens/validation", "--context", context, "--json",
          "eval.json"});
    EXPECT_NEAR(record["measurements"][index]["loss"].get<double>(),
                read("eval.json")["loss"].get<double>(), 1e-6)
        << model << " at " << context;
  }
  EXPECT_NE(record["measurements"][2]["far_loss"], record["measurements"][5]["far_loss"])
      << "scaling changes what is computed";
}

TEST_F(Extend, StopsWhereTheLongLossDoesNotFall) {
  const ProgramResult stopped = run({"extend", "longer.toml", "--set", "extend.min_gain=50"});
  EXPECT_EQ(stopped.exit_code, 79);
  EXPECT_THAT(stopped.errors,
              HasSubstr("stopped after step 3: beyond position 32 the loss at context 64"));
  EXPECT_THAT(stopped.errors, HasSubstr("extend.min_gain, 50"));
  // Starting it again does not carry it past the gate; the state is saved, and the bound may
  // change.
  EXPECT_EQ(run({"extend", "longer.toml", "--set", "extend.min_gain=50"}).exit_code, 79);
  const ProgramResult on = good({"extend", "longer.toml"});
  EXPECT_THAT(on.errors, HasSubstr("after step 3"));
}

TEST_F(Extend, StopsWhereTheShortLossRises) {
  const ProgramResult stopped = run({"extend", "longer.toml", "--set", "extend.max_regression=0",
                                     "--set", "learning_rate.peak=3"});
  EXPECT_EQ(stopped.exit_code, 79);
  EXPECT_THAT(stopped.errors, HasSubstr("stopped after step 3: at context 32 the loss is"));
}

TEST_F(Extend, RefusesRecipesThatExtendNothing) {
  const ProgramResult plain = run({"extend", "base.toml"});
  EXPECT_EQ(plain.exit_code, 2);
  EXPECT_THAT(plain.errors, HasSubstr("base.toml has no [extend] section"));
  const ProgramResult other = run({"extend", "longer.toml", "--set", "extend.from_context=16"});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.errors,
              HasSubstr("extend.from_context is 16 but runs/base was trained at context 32"));
  // Over a model that is scaled already.
  good({"extend", "longer.toml"});
  const ProgramResult again = run({"extend", "longer.toml",
                                   "--set",  "run.folder=runs/again",
                                   "--set",  "init.from=runs/longer",
                                   "--set",  "extend.from_context=128",
                                   "--set",  "train.context=256",
                                   "--set",  "train.tokens_per_step=256",
                                   "--set",  "context.stage.0.length=256",
                                   "--set",  "context.stage.1.length=256",
                                   "--set",  "model.block.g.rope_factor=2",
                                   "--set",  "model.block.g.rope_original_context=128"});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_THAT(again.errors, HasSubstr("this recipe does not extend runs/longer"));
  EXPECT_THAT(again.errors, HasSubstr("model.block.g"));
}

}  // namespace
}  // namespace sidewinder
