// Two ways to shorten the context agree: full rows cut into fragments, and the fragments as rows of
// their own.

#include <gtest/gtest.h>

#include <cmath>

#include "data/packer.h"
#include "tests/support/models.h"
#include "tests/support/random.h"
#include "trainer/trainer.h"

namespace sidewinder {
namespace {

struct Result {
  double loss = 0;
  std::map<std::string, Tensor> gradients;
};

Result run(HybridModel& model, Dtype dtype, const Batch& batch, const Layouts& layouts) {
  const int64_t tokens = batch.rows * batch.row_length;
  model.visit([](Parameter& parameter) { parameter.zero_gradient(); });
  Tape tape;
  const LossOut out =
      model.loss(&tape, dtype, layouts, Tensor::from<int32_t>({tokens}, batch.tokens),
                 Tensor::from<int32_t>({tokens}, batch.targets),
                 {.scale = 1.0 / static_cast<double>(batch.num_targets)});
  tape.backward(out.loss);
  Result result;
  result.loss = out.loss.value().at(0);
  model.visit([&](Parameter& parameter) {
    result.gradients[parameter.name()] = parameter.gradient().to(Dtype::f64);
  });
  return result;
}

void expect_equal(const Result& a, const Result& b, double tolerance) {
  EXPECT_NEAR(a.loss, b.loss, tolerance * std::abs(b.loss));
  for (const auto& [name, gradient] : a.gradients) {
    EXPECT_LT(testing::relative_error(gradient, b.gradients.at(name)), tolerance) << name;
  }
}

ContextPlan cut_every(int64_t length, bool states = true) {
  ContextPlan plan;
  plan.length = length;
  plan.fragment = length;
  plan.cut_states = states;
  return plan;
}

// `rows` full rows, each one document.
Batch full_rows(int64_t rows, int64_t row_length) {
  Batch batch;
  batch.rows = rows;
  batch.row_length = row_length;
  batch.tokens = testing::random_tokens(rows * row_length, 37, 1);
  batch.targets = testing::random_tokens(rows * row_length, 37, 2);
  for (int64_t row = 0; row < rows; ++row) {
    batch.document_starts.push_back(static_cast<int32_t>(row * row_length));
    batch.first_positions.push_back(0);
  }
  batch.num_targets = rows * row_length;
  return batch;
}

// The same tokens in rows of `length`.
Batch as_short_rows(const Batch& batch, int64_t length) {
  Batch rows = full_rows(batch.rows * batch.row_length / length, length);
  rows.tokens = batch.tokens;
  rows.targets = batch.targets;
  return rows;
}

class Fragments : public ::testing::TestWithParam<const char*> {};

TEST_P(Fragments, EqualTheShortRowsThemselves) {
  for (const auto& [dtype, tolerance] : {std::pair{Dtype::f64, 1e-12}, {Dtype::f32, 1e-5}}) {
    HybridModel model = testing::tiny_model(GetParam(), dtype);
    const Batch batch = full_rows(2, 144);
    for (const bool isolate : {true, false}) {
      DataOptions options;
      options.isolate_attention = options.isolate_state = isolate;
      for (const int64_t length : {1, 16, 72}) {
        const Batch rows = as_short_rows(batch, length);
        expect_equal(run(model, dtype, batch, layouts_of(batch, options, cut_every(length))),
                     run(model, dtype, rows, layouts_of(rows, options)), tolerance);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Fragments, ::testing::Values("mm", "wf", "mwmf"));

// Documents of any length: the packer would cut those that are longer than short rows at the very
// places where the mask cuts them.
TEST(Fragments, EqualThePiecesThatThePackerMakes) {
  HybridModel model = testing::tiny_model("mwmf", Dtype::f64);
  const std::vector<int64_t> lengths = {50, 7, 33, 16, 1, 37};
  Batch whole;
  whole.rows = 1;
  whole.row_length = 144;
  whole.tokens = testing::random_tokens(144, 37, 1);
  whole.targets = testing::random_tokens(144, 37, 2);
  whole.num_targets = 144;
  std::vector<DocumentPiece> pieces;
  int64_t at = 0;
  for (const int64_t length : lengths) {
    whole.document_starts.push_back(static_cast<int32_t>(at));
    whole.first_positions.push_back(0);
    pieces.push_back({0, static_cast<int64_t>(pieces.size()), 0, length});
    at += length;
  }
  ASSERT_EQ(at, 144);
  constexpr int64_t kLength = 16;
  Batch packed;
  packed.row_length = kLength;
  for (const PackedRow& row : pack_best_fit(pieces, kLength)) {
    const int64_t begin = packed.rows++ * kLength;
    packed.tokens.resize(static_cast<size_t>(begin + kLength), 0);
    packed.targets.resize(static_cast<size_t>(begin + kLength), kIgnoredTarget);
    int64_t to = begin;
    for (const DocumentPiece& piece : row) {
      packed.document_starts.push_back(static_cast<int32_t>(to));
      packed.first_positions.push_back(0);
      const int64_t from = whole.document_starts[static_cast<size_t>(piece.document)] + piece.first;
      std::copy_n(whole.tokens.begin() + from, piece.slots, packed.tokens.begin() + to);
      std::copy_n(whole.targets.begin() + from, piece.slots, packed.targets.begin() + to);
      to += piece.slots;
    }
    if (to < begin + kLength) {
      packed.document_starts.push_back(static_cast<int32_t>(to));
      packed.first_positions.push_back(0);
    }
  }
  packed.num_targets = 144;
  const DataOptions options;
  expect_equal(run(model, Dtype::f64, whole, layouts_of(whole, options, cut_every(kLength))),
               run(model, Dtype::f64, packed, layouts_of(packed, options)), 1e-11);
}

TEST(Fragments, MayKeepPositionsAndStates) {
  const Batch batch = full_rows(1, 40);
  DataOptions options;
  const auto position = [](const SequenceLayout& layout, int64_t t) {
    return layout.position.data<int32_t>()[t];
  };
  Layouts layouts = layouts_of(batch, options, cut_every(16));
  EXPECT_EQ(position(layouts.attention, 17), 1);
  EXPECT_EQ(layouts.attention.document_starts, (std::vector<int32_t>{0, 16, 32}));
  EXPECT_EQ(layouts.state.document_starts, (std::vector<int32_t>{0, 16, 32}));
  options.long_documents = LongDocuments::continue_positions;
  layouts = layouts_of(batch, options, cut_every(16));
  EXPECT_EQ(position(layouts.attention, 17), 17);
  layouts = layouts_of(batch, options, cut_every(16, false));
  EXPECT_EQ(layouts.attention.document_starts, (std::vector<int32_t>{0, 16, 32}));
  EXPECT_EQ(layouts.state.document_starts, std::vector<int32_t>{0});
}

// The test above must be able to fail: states that go on across fragments change the result.
TEST(Fragments, WithoutResetsStatesSeeTheWholeRow) {
  HybridModel model = testing::tiny_model("mw", Dtype::f64);
  const Batch batch = full_rows(1, 64);
  const DataOptions options;
  const Result cut = run(model, Dtype::f64, batch, layouts_of(batch, options, cut_every(16)));
  const Result whole =
      run(model, Dtype::f64, batch, layouts_of(batch, options, cut_every(16, false)));
  EXPECT_GT(std::abs(cut.loss - whole.loss), 1e-6);
}

}  // namespace
}  // namespace sidewinder
