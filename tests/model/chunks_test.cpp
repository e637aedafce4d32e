// Rows gone through in chunks have the losses and the gradients of whole rows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "kernels/base/error.h"
#include "kernels/tensor/allocator.h"
#include "model/model.h"
#include "tests/support/models.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

struct Result {
  double loss = 0;
  Tensor token_loss;
  std::map<std::string, Tensor> gradients;
};

Result run(HybridModel& model, Dtype dtype, const Layouts& layouts, int64_t chunk,
           const HybridModel::Lanes& lanes = {}) {
  const int64_t tokens = layouts.state.tokens();
  model.visit([](Parameter& parameter) { parameter.zero_gradient(); });
  std::vector<int32_t> targets = testing::random_tokens(tokens, 37, 2);
  for (size_t i = 0; i < targets.size(); i += 7) targets[i] = -1;
  const HybridModel::StepLoss out = model.loss_and_gradients(
      dtype, layouts, Tensor::from<int32_t>({tokens}, testing::random_tokens(tokens, 37, 1)),
      Tensor::from<int32_t>({tokens}, targets),
      {.scale = 1.0 / static_cast<double>(tokens), .z_loss = 0.01, .chunk = chunk}, lanes);
  Result result{out.loss, out.token_loss.to(Dtype::f64), {}};
  model.visit([&](Parameter& parameter) {
    result.gradients[parameter.name()] = parameter.gradient().to(Dtype::f64);
  });
  return result;
}

void expect_equal(const Result& actual, const Result& expected, double tolerance) {
  EXPECT_NEAR(actual.loss, expected.loss, tolerance * std::abs(expected.loss));
  EXPECT_LT(testing::relative_error(actual.token_loss, expected.token_loss), tolerance);
  for (const auto& [name, gradient] : expected.gradients) {
    EXPECT_LT(testing::relative_error(actual.gradients.at(name), gradient), tolerance) << name;
  }
}

// Two rows: a long document, which goes on from a row before, and short ones; then one alone.
Layouts packed_rows(int64_t length) {
  const auto last = static_cast<int32_t>(length);
  const std::vector<int32_t> starts = {0, last - 31, last - 13, last - 12, last};
  const std::vector<int32_t> positions = {40, 0, 0, 0, 0};
  const SequenceLayout layout = SequenceLayout::packed(2, length, starts, positions);
  return {layout, layout};
}

class Chunks : public ::testing::TestWithParam<const char*> {};

TEST_P(Chunks, HaveTheGradientsOfWholeRows) {
  for (const auto& [dtype, tolerance] :
       {std::pair{Dtype::f64, 1e-12}, {Dtype::f32, 2e-5}, {Dtype::bf16, 0.02}}) {
    SCOPED_TRACE(name_of(dtype));
    // bf16 is the type of activations; parameters are f32.
    HybridModel model = testing::tiny_model(GetParam(), dtype == Dtype::bf16 ? Dtype::f32 : dtype);
    const Layouts layouts = packed_rows(93);
    const Result whole = run(model, dtype, layouts, 0);
    // Shorter than the convolution and the window, equal, longer, and not a divisor of the row.
    for (const int64_t chunk : {2, 5, 31, 64}) {
      SCOPED_TRACE(chunk);
      expect_equal(run(model, dtype, layouts, chunk), whole, tolerance);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Chunks, ::testing::Values("m", "w", "f", "mwmf"));

TEST(Chunks, KeepLayoutsOfAttentionAndStatesApart) {
  HybridModel model = testing::tiny_model("mwf", Dtype::f64);
  Layouts layouts = packed_rows(70);
  layouts.state = SequenceLayout::unpacked(2, 70);  // documents are not isolated there
  expect_equal(run(model, Dtype::f64, layouts, 16), run(model, Dtype::f64, layouts, 0), 1e-12);
}

TEST(Chunks, GoOnFromLanesAndLeaveTheirStates) {
  HybridModel model = testing::tiny_model("mwm", Dtype::f64);
  const Layouts first = packed_rows(60);
  LaneStates states;
  LaneStates states_of_chunks;
  run(model, Dtype::f64, first, 0, {.before = nullptr, .after = &states});
  run(model, Dtype::f64, first, 17, {.before = nullptr, .after = &states_of_chunks});
  for (size_t block = 0; block < states.size(); ++block) {
    EXPECT_EQ(states[block].cached, states_of_chunks[block].cached);
    for (const auto member :
         {&LaneState::conv, &LaneState::scan, &LaneState::keys, &LaneState::values}) {
      if (!(states[block].*member).defined()) continue;
      EXPECT_LT(testing::relative_error((states_of_chunks[block].*member).value(),
                                        (states[block].*member).value()),
                1e-12);
    }
  }
  // Both rows of the next step go on.
  const std::vector<int32_t> starts = {0, 33, 60};
  const std::vector<int32_t> positions = {12, 0, 60};
  const SequenceLayout layout =
      SequenceLayout::packed(2, 60, starts, positions).with_carried({1, 1});
  const Layouts next = {layout, layout};
  const Result whole = run(model, Dtype::f64, next, 0, {.before = &states, .after = nullptr});
  expect_equal(run(model, Dtype::f64, next, 17, {.before = &states, .after = nullptr}), whole,
               1e-12);
  // What they go on from matters.
  EXPECT_GT(std::abs(run(model, Dtype::f64, next, 17).loss - whole.loss), 1e-6);
}

TEST(Chunks, DoNotRecomputeBlocksAsWell) {
  HybridModel model = testing::tiny_model("m", Dtype::f32);
  const Layouts layouts = packed_rows(40);
  const Tensor ids = Tensor::from<int32_t>({80}, testing::random_tokens(80, 37, 1));
  EXPECT_THROW(
      model.loss_and_gradients(Dtype::f32, layouts, ids, ids, {.recompute = true, .chunk = 8}, {}),
      Error);
}

// Peak memory of a pass over rows four times as long stays nearly the same.
TEST(Chunks, KeepMemoryFlat) {
  HybridModel model = testing::tiny_model("mwm", Dtype::f32);
  const auto peak = [&](int64_t length, int64_t chunk) {
    const SequenceLayout layout = SequenceLayout::unpacked(1, length);
    const Layouts layouts = {layout, layout};
    run(model, Dtype::f32, layouts, chunk);  // gradients and packed weights exist from now on
    Allocator& arena = allocator_of({});
    arena.reset_peak();
    const int64_t before = arena.statistics().bytes_in_use;
    run(model, Dtype::f32, layouts, chunk);
    return arena.statistics().bytes_peak - before;
  };
  const auto growth = [&](int64_t chunk) {
    return static_cast<double>(peak(8192, chunk)) / static_cast<double>(peak(2048, chunk));
  };
  EXPECT_GT(growth(0), 3.0);
  EXPECT_LT(growth(512), 1.7);
}

}  // namespace
}  // namespace sidewinder
