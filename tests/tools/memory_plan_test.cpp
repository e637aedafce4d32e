#include "tools/memory_plan.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/tensor/allocator.h"
#include "kernels/tensor/dry_run.h"
#include "tests/support/variants.h"
#include "tools/synthetic_run.h"

namespace sidewinder {
namespace {

Recipe recipe_of(const std::string& layers, int64_t context) {
  Recipe recipe;
  recipe.model.width = 128;
  recipe.model.vocabulary = 1000;
  recipe.model.layers = layers;
  recipe.model.blocks["m"] = {};
  BlockOptions window;
  window.mixer = MixerKind::attention;
  window.pattern = PatternKind::window;
  window.window = 100;
  window.key_value_heads = 1;
  recipe.model.blocks["w"] = window;
  BlockOptions full;
  full.mixer = MixerKind::attention;
  recipe.model.blocks["f"] = full;
  recipe.train.context = context;
  recipe.train.tokens_per_micro_batch = context;
  recipe.train.tokens_per_step = 2 * context;
  return recipe;
}

// High-water mark of real steps, beyond what was in use before. The work space of threads is not
// planned, and when another thread first needs its own is chance: a first step on one leaves all of
// it.
int64_t measured_peak(const Recipe& recipe) {
  const testing::OneThread one_thread;
  SyntheticRun(recipe).step(1);
  Allocator& allocator = allocator_of({});
  allocator.reset_peak();
  const int64_t before = allocator.statistics().bytes_in_use;
  {
    SyntheticRun run(recipe);
    run.step(1);
    run.step(2);
  }
  return allocator.statistics().bytes_peak - before;
}

struct Case {
  const char* layers;
  RecomputeKind recompute;
  Precision precision;
  int64_t chunk = 0;
  LongDocuments long_documents = LongDocuments::continue_reset;
};

class PlannedPeak : public ::testing::TestWithParam<Case> {};

void expect_within_three_percent(const Case& test, const std::vector<int64_t>& contexts) {
  for (const int64_t context : contexts) {
    Recipe recipe = recipe_of(test.layers, context);
    recipe.train.recompute = test.recompute;
    recipe.train.precision = test.precision;
    recipe.train.sequence_chunk = test.chunk;
    recipe.data.long_documents = test.long_documents;
    const MemoryPlan plan = plan_memory(recipe);
    const auto measured = static_cast<double>(measured_peak(recipe));
    ::testing::Test::RecordProperty("bytes_at_" + std::to_string(context),
                                    std::to_string(plan.peak_bytes));
    EXPECT_NEAR(static_cast<double>(plan.peak_bytes) / measured, 1.0, 0.03) << context;
  }
}

TEST_P(PlannedPeak, IsWithinThreePercentOfTheAllocatorsAtThreeLengths) {
  expect_within_three_percent(GetParam(), {512, 1025, 1537});
}

// Where a step takes hardly more than the state.
TEST_P(PlannedPeak, IsWithinThreePercentInShortRowsToo) {
  expect_within_three_percent(GetParam(), {64, 192, 300});
}

INSTANTIATE_TEST_SUITE_P(
    MemoryPlan, PlannedPeak,
    ::testing::Values(
        Case{"ff", RecomputeKind::none, Precision::f32},
        Case{"ff", RecomputeKind::block, Precision::bf16},
        Case{"ww", RecomputeKind::none, Precision::bf16},
        Case{"ww", RecomputeKind::block, Precision::f32},
        Case{"mm", RecomputeKind::none, Precision::f32},
        Case{"mm", RecomputeKind::none, Precision::bf16},
        Case{"mm", RecomputeKind::block, Precision::f32},
        Case{"mwf", RecomputeKind::none, Precision::f32},
        Case{"mwf", RecomputeKind::none, Precision::bf16},
        Case{"mwf", RecomputeKind::block, Precision::bf16},
        Case{"mwf", RecomputeKind::none, Precision::bf16, 200},
        Case{"mwm", RecomputeKind::none, Precision::f32, 300, LongDocuments::continue_state},
        Case{"mwm", RecomputeKind::block, Precision::bf16, 0, LongDocuments::continue_state}),
    [](const auto& test) {
      return std::string(test.param.layers) +
             (test.param.recompute == RecomputeKind::block ? "_recompute" : "_keep") +
             (test.param.precision == Precision::bf16 ? "_bf16" : "_f32") +
             (test.param.chunk > 0 ? "_chunks" : "") +
             (test.param.long_documents == LongDocuments::continue_state ? "_lanes" : "");
    });

TEST(MemoryPlan, CountsTheCopyThatCheckpointsAreWrittenFrom) {
  Recipe recipe = recipe_of("mw", 512);
  recipe.train.steps = 100;
  recipe.checkpoint.every_steps = 50;
  const MemoryPlan plan = plan_memory(recipe);
  EXPECT_EQ(plan.copy_bytes, plan.parameter_bytes + plan.moment_bytes);
  recipe.checkpoint.asynchronous = false;
  const MemoryPlan waiting = plan_memory(recipe);
  EXPECT_EQ(waiting.copy_bytes, 0);
  EXPECT_EQ(waiting.peak_bytes, plan.peak_bytes - plan.copy_bytes);
  EXPECT_EQ(waiting.step_bytes, plan.step_bytes);
  // The last checkpoint needs no copy.
  recipe.checkpoint = {.every_steps = 100};
  EXPECT_EQ(plan_memory(recipe).copy_bytes, 0);
}

TEST(DryRun, TakesNoMemoryOfTheArenaAndLittleOfTheSystem) {
  Recipe recipe = recipe_of("mwf", 1 << 16);
  recipe.model.width = 4096;
  recipe.model.vocabulary = 100'000;
  const MemoryStatistics before = allocator_of({}).statistics();
  const MemoryPlan plan = plan_memory(recipe);
  EXPECT_GT(plan.peak_bytes, int64_t{30} << 30);
  EXPECT_EQ(allocator_of({}).statistics().bytes_in_use, before.bytes_in_use);
  EXPECT_EQ(allocator_of({}).statistics().bytes_reserved, before.bytes_reserved);
}

TEST(MemoryPlan, ContinuesInALineForMillionsOfTokens) {
  constexpr int64_t kMillion = 1 << 20;
  for (const int64_t rows : {1, 64}) {
    const auto step_bytes = [&](int64_t tokens) {
      Recipe recipe = recipe_of("mwf", tokens / rows);
      recipe.train.tokens_per_micro_batch = tokens;
      recipe.train.tokens_per_step = 2 * tokens;
      recipe.train.recompute = RecomputeKind::block;
      return static_cast<double>(plan_memory(recipe).step_bytes);
    };
    // Longer rows also have longer rotary tables.
    const double four = step_bytes(4 * kMillion);
    for (const double factor : {1.25, 2.0, 250.0}) {
      EXPECT_NEAR(step_bytes(static_cast<int64_t>(4 * factor) * kMillion) / (factor * four), 1.0,
                  0.05)
          << rows << " rows, " << factor;
    }
  }
}

TEST(EvaluationBytes, AreWithinFivePercentOfTheAllocators) {
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    for (const int64_t length : {300, 5000}) {
      Recipe recipe = recipe_of("mwf", 64);
      recipe.train.precision = precision;
      const int64_t planned = evaluation_bytes(recipe, length);
      recipe.train.context = recipe.train.tokens_per_micro_batch = length;
      recipe.train.tokens_per_step = length;
      const testing::OneThread one_thread;
      SyntheticRun(recipe).evaluate();
      SyntheticRun run(recipe);
      Allocator& allocator = allocator_of({});
      allocator.reset_peak();
      const int64_t before = allocator.statistics().bytes_in_use;
      run.evaluate();
      const auto measured = static_cast<double>(allocator.statistics().bytes_peak - before);
      EXPECT_NEAR(static_cast<double>(planned) / measured, 1.0, 0.05) << length;
    }
  }
}

TEST(EvaluationBytes, RowsThatDoNotFitAreRefusedWithALengthThatDoes) {
  const Recipe recipe = recipe_of("mwf", 64);
  constexpr int64_t kTooLong = int64_t{1} << 40;
  try {
    require_memory_to_evaluate(recipe, kTooLong, "--context");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    const std::string message = error.what();
    const size_t at = message.find("use --context ");
    ASSERT_NE(at, std::string::npos) << message;
    const int64_t fits = std::stoll(message.substr(at + 14));
    EXPECT_GT(fits, 1 << 16);
    EXPECT_LT(evaluation_bytes(recipe, fits), evaluation_bytes(recipe, kTooLong) / 1000);
    EXPECT_NO_THROW(require_memory_to_evaluate(recipe, fits / 2, "--context"));
  }
}

TEST(DryRun, EndsWithItsObject) {
  {
    const DryRun dry_run;
    const Tensor tensor = Tensor::zeros({1000}, Dtype::f32);
    EXPECT_EQ(dry_run.statistics().bytes_in_use, 4032);  // rounded up to 64
  }
  const Tensor tensor = Tensor::zeros({1000}, Dtype::f32);
  for (int64_t i = 0; i < 1000; ++i) ASSERT_EQ(tensor.at(i), 0.0);
}

TEST(MemoryProblem, LongRowsThatDoNotFitAreToBeChunked) {
  Recipe recipe = recipe_of("mw", 1 << 16);
  recipe.train.recompute = RecomputeKind::block;
  const int64_t recomputed = plan_memory(recipe).peak_bytes;
  Recipe chunked = recipe;
  chunked.train.recompute = RecomputeKind::none;
  chunked.train.sequence_chunk = 2048;
  const int64_t in_chunks = plan_memory(chunked).peak_bytes;
  ASSERT_LT(2 * in_chunks, recomputed);
  const std::string problem = memory_problem(recipe, (in_chunks + recomputed) / 2);
  EXPECT_NE(problem.find("train.sequence_chunk = 2048 and train.recompute = \"none\""),
            std::string::npos)
      << problem;
}

TEST(MemoryProblem, IsEmptyWhereThePlanFits) {
  EXPECT_EQ(memory_problem(recipe_of("mw", 64), int64_t{4} << 30), "");
}

}  // namespace
}  // namespace sidewinder
