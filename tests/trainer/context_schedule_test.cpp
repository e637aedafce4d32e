#include "trainer/context_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>

#include "kernels/base/error.h"
#include "tests/support/models.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;

constexpr std::array<ContextCurve, 5> kCurves = {ContextCurve::linear, ContextCurve::exponential,
                                                 ContextCurve::sine, ContextCurve::cosine,
                                                 ContextCurve::log};

TrainOptions train_with(int64_t context, int64_t tokens_per_step, int64_t steps) {
  TrainOptions train;
  train.steps = steps;
  train.context = context;
  train.tokens_per_step = tokens_per_step;
  return train;
}

ContextOptions curve_with(ContextCurve curve, int64_t first, int64_t ramp) {
  ContextOptions options;
  options.curve = curve;
  options.form = ContextForm::mask;
  options.first = first;
  options.ramp = ramp;
  return options;
}

ModelOptions windowed_model() { return testing::tiny_options("mw"); }  // window 5

// Rows of 8, 16 and 32, beginning at steps 0, 10 and 30, at 64 slots a step.
ContextOptions three_stages() {
  ContextOptions options;
  options.curve = ContextCurve::stages;
  options.stages = {{0, 8, {{"w", {.window = 2}}}}, {10, 16, {{"w", {.window = 4}}}}, {30, 32, {}}};
  return options;
}
const TrainOptions kTrain = train_with(32, 64, 50);

// long-context.md, section 4.2: w0 = 32, w1 = 8192, T = 64000.
TEST(ContextCurve, GoldenLengths) {
  struct Row {
    int64_t t;
    std::array<int64_t, 5> lengths;  // in the order of kCurves
  };
  const std::vector<Row> golden = {{0, {32, 32, 32, 32, 32}},
                                   {8000, {1052, 64, 1623, 342, 2890}},
                                   {16000, {2072, 128, 3154, 1227, 4090}},
                                   {32000, {4112, 512, 5801, 4111, 5788}},
                                   {48000, {6152, 2048, 7570, 6996, 7092}},
                                   {64000, {8192, 8192, 8192, 8192, 8192}}};
  for (const Row& row : golden) {
    for (size_t i = 0; i < kCurves.size(); ++i) {
      EXPECT_EQ(curve_length(kCurves[i], 32, 8192, row.t, 64000), row.lengths[i])
          << "t " << row.t << " curve " << i;
    }
  }
}

TEST(ContextCurve, OneMoreTokenEveryEightSteps) {
  const int64_t ramp = 8 * (8192 - 32);
  EXPECT_EQ(ramp, 65280);
  for (int64_t t = 0; t <= ramp; ++t) {
    ASSERT_EQ(curve_length(ContextCurve::linear, 32, 8192, t, ramp), 32 + t / 8);
  }
}

TEST(ContextCurve, GoldenShareOfAttendedKeys) {
  const auto share = [](ContextCurve curve) {
    double sum = 0;
    for (int64_t t = 0; t < 100'000; t += 100) {
      sum += static_cast<double>(curve_length(curve, 32, 8192, t, 64000)) / 8192;
    }
    return sum / 1000;
  };
  EXPECT_NEAR(share(ContextCurve::linear), 0.681, 5e-4);
  EXPECT_NEAR(share(ContextCurve::exponential), 0.474, 5e-4);
  EXPECT_NEAR(share(ContextCurve::sine), 0.768, 5e-4);
}

TEST(ContextCurve, NeverShrinksOrOvershoots) {
  for (const ContextCurve curve : kCurves) {
    for (const auto& [first, last] :
         {std::pair<int64_t, int64_t>{32, 8192}, {1, 7}, {5, 5}, {9, 10}}) {
      for (const int64_t ramp : {int64_t{1}, int64_t{3}, int64_t{1000}}) {
        int64_t before = first;
        EXPECT_EQ(curve_length(curve, first, last, 0, ramp), first);
        for (int64_t t = 0; t <= 2 * ramp; ++t) {
          const int64_t length = curve_length(curve, first, last, t, ramp);
          ASSERT_GE(length, before);
          ASSERT_LE(length, last);
          before = length;
        }
        EXPECT_EQ(before, last);
      }
    }
  }
}

TEST(ContextSchedule, GoldenRoundingToAMultiple) {
  ContextOptions options = curve_with(ContextCurve::linear, 32, 64000);
  options.multiple = 1024;
  const ContextSchedule schedule(options, train_with(8192, 8192, 100'000), windowed_model());
  const auto length = [&](int64_t step) { return schedule.at(schedule.progress_at(step)).length; };
  EXPECT_EQ(length(0), 32);
  EXPECT_EQ(length(8000), 1024);
  EXPECT_EQ(length(32000), 4096);
  EXPECT_EQ(length(60000), 7168);
  EXPECT_EQ(length(64000), 8192);
  EXPECT_EQ(length(99999), 8192);
}

ModelOptions bigbird_model() {
  ModelOptions model = windowed_model();
  BlockOptions& block = model.blocks.at("w");
  block.pattern = PatternKind::bigbird;
  block.window = 32;
  block.pattern_block = 8;
  block.global_tokens = 8;
  block.random_blocks = 2;
  return model;
}

// The windows of a curve are whole blocks of the pattern, as the model's is.
TEST(ContextSchedule, WindowsAreWholeBlocksOfThePattern) {
  for (const int64_t multiple : {1, 3, 16}) {
    for (const ContextCurve curve : kCurves) {
      ContextOptions options = curve_with(curve, 16, 40);
      options.multiple = multiple;
      options.blocks["w"].first_window = 8;
      const ContextSchedule schedule(options, kTrain, bigbird_model());
      HybridModel model(bigbird_model(), Initializer{.seed = 1, .dtype = Dtype::f32});
      int64_t before = 0;
      for (int64_t step = 0; step <= 50; ++step) {
        const ContextPlan plan = schedule.at(schedule.progress_at(step));
        const int64_t window = plan.blocks.at("w").window;
        ASSERT_EQ(window % 8, 0);
        ASSERT_GE(window, std::max<int64_t>(8, before));
        before = window;
        apply(plan, model);
      }
      EXPECT_EQ(before, 32);
    }
  }
}

TEST(ContextSchedule, DivisorsMakeWholeRows) {
  for (const ContextCurve curve : kCurves) {
    ContextOptions options = curve_with(curve, 64, 1000);
    options.form = ContextForm::rows;
    options.rounding = ContextRounding::divisor;
    options.multiple = 32;
    const TrainOptions train = train_with(2048, 12288, 1200);
    const ContextSchedule schedule(options, train, windowed_model());
    int64_t before = 0;
    std::vector<int64_t> lengths;
    for (int64_t step = 0; step < train.steps; ++step) {
      const ContextPlan plan = schedule.at(schedule.progress_at(step));
      ASSERT_EQ(plan.rows.rows * plan.rows.row_length, train.tokens_per_step);
      ASSERT_EQ(plan.rows.row_length, plan.length);
      ASSERT_EQ(plan.length % 32, 0);
      ASSERT_GE(plan.length, before);
      ASSERT_EQ(plan.fragment, 0);
      if (plan.length != before) lengths.push_back(plan.length);
      before = plan.length;
    }
    EXPECT_EQ(lengths.front(), 64);
    EXPECT_EQ(lengths.back(), 2048);
    EXPECT_GE(lengths.size(), 6U);
  }
}

TEST(ContextSchedule, StagesGiveRowsAndWindows) {
  const ContextSchedule schedule(three_stages(), kTrain, windowed_model());
  const auto check = [&](int64_t step, int64_t stage, RowPlan rows, int64_t window) {
    const ContextPlan plan = schedule.at(schedule.progress_at(step));
    EXPECT_EQ(plan.stage, stage) << step;
    EXPECT_EQ(plan.length, rows.row_length) << step;
    EXPECT_EQ(plan.rows, rows) << step;
    EXPECT_EQ(plan.blocks.at("w").window, window) << step;
    EXPECT_EQ(plan.fragment, 0);
  };
  check(0, 0, {8, 8}, 2);
  check(9, 0, {8, 8}, 2);
  check(10, 1, {4, 16}, 4);
  check(29, 1, {4, 16}, 4);
  check(30, 2, {2, 32}, 5);  // the model's window
  check(1'000'000, 2, {2, 32}, 5);
}

TEST(ContextSchedule, TheMaskKeepsRowsAndCutsThem) {
  ContextOptions options = three_stages();
  options.form = ContextForm::mask;
  for (const bool reset : {true, false}) {
    options.reset_state = reset;
    const ContextSchedule schedule(options, kTrain, windowed_model());
    const ContextPlan short_plan = schedule.at(schedule.progress_at(0));
    EXPECT_EQ(short_plan.rows, (RowPlan{2, 32}));
    EXPECT_EQ(short_plan.length, 8);
    EXPECT_EQ(short_plan.fragment, 8);
    EXPECT_EQ(short_plan.cut_states, reset);
    const ContextPlan long_plan = schedule.at(schedule.progress_at(30));
    EXPECT_EQ(long_plan.fragment, 0);
    EXPECT_FALSE(long_plan.cut_states);
  }
}

TEST(ContextSchedule, WindowsGrowAlongTheCurve) {
  ContextOptions options = curve_with(ContextCurve::linear, 64, 100);
  options.multiple = 8;
  options.blocks["w"].first_window = 10;
  ModelOptions model = windowed_model();
  model.blocks.at("w").window = 50;
  const ContextSchedule schedule(options, train_with(64, 64, 200), model);
  const auto window = [&](int64_t step) {
    return schedule.at(schedule.progress_at(step)).blocks.at("w").window;
  };
  EXPECT_EQ(window(0), 10);
  EXPECT_EQ(window(10), 10);  // 14, rounded to 8, which is below the first
  EXPECT_EQ(window(15), 16);
  EXPECT_EQ(window(99), 48);
  EXPECT_EQ(window(100), 50);
  EXPECT_EQ(window(199), 50);
  EXPECT_EQ(schedule.at(schedule.progress_at(99)).length, 64);
  EXPECT_EQ(schedule.at(schedule.progress_at(0)).stage, 0);
  EXPECT_EQ(schedule.at(schedule.progress_at(100)).stage, 2);  // doubled twice
}

// The same at equal row slots, however they are divided into micro-batches, and for any unit.
TEST(ContextSchedule, IsAFunctionOfProgressAlone) {
  ContextOptions by_steps = three_stages();
  ContextOptions by_slots = three_stages();
  by_slots.unit = ContextUnit::row_slots;
  for (StageOptions& stage : by_slots.stages) stage.from *= 64;
  by_slots.stages[1].from -= 63;  // within step 9: takes effect at step 10
  for (const int64_t at_once : {0, 32, 64}) {
    TrainOptions train = kTrain;
    train.tokens_per_micro_batch = at_once;
    const ContextSchedule steps(by_steps, train, windowed_model());
    const ContextSchedule slots(by_slots, train, windowed_model());
    for (int64_t step = train.steps; step-- > 0;) {  // backwards: nothing is remembered
      const Progress progress = steps.progress_at(step);
      EXPECT_EQ(progress.row_slots, 64 * step);
      ASSERT_EQ(steps.at(progress), slots.at(progress)) << step;
    }
    EXPECT_EQ(slots.at({0, 64 * 30}).length, 32);  // row slots decide, not the step
    EXPECT_EQ(steps.at({30, 0}).length, 32);
  }
}

// Steps of other sizes come by the same plan at equal row slots; only the rows are more.
TEST(ContextSchedule, IsAFunctionOfRowSlotsWhateverTheSizeOfSteps) {
  ContextOptions stages = three_stages();
  stages.unit = ContextUnit::row_slots;
  for (StageOptions& stage : stages.stages) stage.from *= 64;
  ContextOptions curve = curve_with(ContextCurve::exponential, 8, 64 * 30);
  curve.unit = ContextUnit::row_slots;
  for (const ContextOptions& options : {stages, curve}) {
    const ContextSchedule reference(options, train_with(32, 64, 60), windowed_model());
    for (const int64_t factor : {2, 4, 6}) {
      const ContextSchedule larger(options, train_with(32, 64 * factor, 60), windowed_model());
      for (int64_t step = 0; step < 20; ++step) {
        const Progress there = larger.progress_at(step);
        ASSERT_EQ(there.row_slots, 64 * factor * step);
        const ContextPlan expected = reference.at(reference.progress_at(factor * step));
        ContextPlan plan = larger.at(there);
        EXPECT_EQ(plan.rows.rows, factor * expected.rows.rows) << step;
        plan.rows.rows = expected.rows.rows;
        ASSERT_EQ(plan, expected) << step;
      }
    }
  }
}

TEST(ContextSchedule, FindsEveryChange) {
  const ContextSchedule stages(three_stages(), kTrain, windowed_model());
  EXPECT_EQ(stages.next_change(0, 50), 10);
  EXPECT_EQ(stages.next_change(9, 50), 10);
  EXPECT_EQ(stages.next_change(10, 50), 30);
  EXPECT_EQ(stages.next_change(30, 50), 50);
  EXPECT_EQ(stages.next_change(49, 50), 50);
  ContextOptions options = curve_with(ContextCurve::sine, 3, 700);
  const ContextSchedule curve(options, train_with(200, 200, 1000), windowed_model());
  int64_t next = 0;
  for (int64_t step = 0; step < 1000; ++step) {
    const bool changed =
        step > 0 && curve.at(curve.progress_at(step)) != curve.at(curve.progress_at(step - 1));
    ASSERT_EQ(changed, step > 0 && step == next) << step;
    if (changed || step == 0) next = curve.next_change(step, 1000);
  }
}

TEST(ContextSchedule, RewarmsTheLearningRateAtLaterStages) {
  ContextOptions options = three_stages();
  const auto share = [&](int64_t step) {
    const ContextSchedule schedule(options, kTrain, windowed_model());
    return schedule.learning_rate_share(schedule.progress_at(step));
  };
  EXPECT_EQ(share(10), 1.0);
  options.learning_rate = EdgeLearningRate::rewarm;
  options.rewarm_steps = 4;
  EXPECT_EQ(share(0), 1.0);
  EXPECT_EQ(share(9), 1.0);
  EXPECT_EQ(share(10), 0.25);
  EXPECT_EQ(share(12), 0.75);
  EXPECT_EQ(share(13), 1.0);
  EXPECT_EQ(share(30), 0.25);
  EXPECT_EQ(share(34), 1.0);
  options.unit = ContextUnit::row_slots;
  for (StageOptions& stage : options.stages)
    stage.from = 64 * stage.from - (stage.from > 0 ? 5 : 0);
  EXPECT_EQ(share(9), 1.0);
  EXPECT_EQ(share(10), 0.25);
}

TEST(ContextSchedule, MicroBatchesHoldNoMoreSlotsThanTheLongestRow) {
  const ContextSchedule schedule(three_stages(), kTrain, windowed_model());
  EXPECT_EQ(schedule.rows_at_once(8), 4);
  EXPECT_EQ(schedule.rows_at_once(32), 1);
  EXPECT_EQ(schedule.rows_at_once(100), 1);
  TrainOptions train = kTrain;
  train.tokens_per_micro_batch = 64;
  EXPECT_EQ(ContextSchedule(three_stages(), train, windowed_model()).rows_at_once(8), 8);
}

TEST(ContextSchedule, AConstantContextIsOnePlan) {
  const ContextSchedule schedule(ContextOptions{}, kTrain, windowed_model());
  EXPECT_TRUE(schedule.is_constant());
  const ContextPlan plan = schedule.at({17, 17 * 64});
  EXPECT_EQ(plan.rows, (RowPlan{2, 32}));
  EXPECT_EQ(plan.fragment, 0);
  EXPECT_TRUE(plan.blocks.empty());
  EXPECT_EQ(schedule.next_change(0, 50), 50);
}

TEST(ContextSchedule, SetsTheWindowsOfTheModel) {
  HybridModel model = testing::tiny_model("mw", Dtype::f64);
  const ContextSchedule schedule(three_stages(), kTrain, model.options());
  const SequenceLayout row = SequenceLayout::unpacked(1, 20);
  const Tensor tokens = Tensor::from<int32_t>({20}, testing::random_tokens(20, 37, 1));
  const auto sum = [](const Tensor& logits) {
    double total = 0;
    for (int64_t i = 0; i < logits.count(); ++i) total += logits.at(i) * logits.at(i);
    return total;
  };
  const double with_5 = sum(model.logits(Dtype::f64, {row, row}, tokens));
  const double flops_5 = model.training_flops(row, 20);
  apply(schedule.at(schedule.progress_at(0)), model);
  EXPECT_NE(sum(model.logits(Dtype::f64, {row, row}, tokens)), with_5);
  EXPECT_LT(model.training_flops(row, 20), flops_5);
  // A model that was made with that window computes the same.
  ModelOptions narrow = model.options();
  narrow.blocks.at("w").window = 2;
  HybridModel made_so(narrow, Initializer{.seed = 7, .dtype = Dtype::f64});
  EXPECT_EQ(sum(model.logits(Dtype::f64, {row, row}, tokens)),
            sum(made_so.logits(Dtype::f64, {row, row}, tokens)));
  apply(schedule.at(schedule.progress_at(30)), model);
  EXPECT_EQ(sum(model.logits(Dtype::f64, {row, row}, tokens)), with_5);
}

// Scaling is set from the model's own options each time: two stages in a row do not compound.
TEST(ContextSchedule, SetsRotaryPositionsFromTheOriginalOnes) {
  ModelOptions options = testing::tiny_options("mf");
  BlockOptions& full = options.blocks.at("f");
  full.rope_scaling = RopeScalingKind::yarn;
  full.rope_factor = 4;
  full.rope_original_context = 8;
  full.rope_base = 40000;
  HybridModel model(options, Initializer{.seed = 7, .dtype = Dtype::f64});
  ContextOptions context;
  context.curve = ContextCurve::stages;
  context.stages = {{0, 8, {{"f", {.rope_base = 10000, .rope_factor = 1}}}},
                    {10, 16, {{"f", {.rope_base = 20000, .rope_factor = 2}}}},
                    {30, 32, {}}};
  const ContextSchedule schedule(context, kTrain, options);
  const auto rope_at = [&](int64_t step) {
    apply(schedule.at(schedule.progress_at(step)), model);
    return model.block_context('f').rope;
  };
  for (int round = 0; round < 2; ++round) {
    for (const auto& [step, base, factor] :
         {std::tuple{0, 10000.0, 1.0}, {15, 20000.0, 2.0}, {40, 40000.0, 4.0}}) {
      RopeOptions expected = rope_options(full);
      expected.base = base;
      expected.scaling.factor = factor;
      EXPECT_EQ(rope_at(step), expected) << step;
    }
  }
  EXPECT_EQ(text_of(schedule.at({})),
            "context 8, 8 rows of 8, rope base of f 10000, rope factor of f 1");
}

TEST(ContextSchedule, RefusesWhatDoesNotFitTogether) {
  ContextOptions options = three_stages();
  options.stages[1].length = 12;
  try {
    const ContextSchedule schedule(options, kTrain, windowed_model());
    FAIL() << "rows of 12 do not divide 64";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    EXPECT_THAT(error.what(), HasSubstr("rows of 12 do not divide train.tokens_per_step, 64"));
  }
}

}  // namespace
}  // namespace sidewinder
