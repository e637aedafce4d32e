// Documents that go on in later rows with their states: what a model says of their tokens is what
// it says of the whole document in one row.

#include "trainer/lanes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "data/loader.h"
#include "tests/support/models.h"
#include "tests/support/small_corpus.h"
#include "tests/support/temporary_folder.h"
#include "trainer/trainer.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRows = 4;
constexpr int64_t kLength = 24;
constexpr int32_t kVocabulary = 37;

testing::Documents random_documents() {
  testing::Documents documents;
  for (const int64_t length : testing::random_lengths(30, 150, 3)) {
    documents.push_back(testing::random_tokens(length, kVocabulary, documents.size()));
  }
  return documents;
}

DataOptions lane_data(const std::string& folder) {
  DataOptions data;
  data.train.push_back({"documents", folder, 1.0});
  data.packing_buffer = 5;
  data.long_documents = LongDocuments::continue_state;
  return data;
}

// A document as it came through a lane.
struct Followed {
  std::vector<int32_t> tokens, targets;
  std::vector<double> losses;
  int64_t pieces = 0;
};

// Steps without updates, two rows at a time; the documents that came to their end.
std::vector<Followed> follow(HybridModel& model, Dtype dtype, const DataOptions& data,
                             int64_t steps, bool recompute = false) {
  Loader loader(data, 4, [](const Progress&) { return RowPlan{kRows, kLength}; });
  Lanes lanes(model.options().layers);
  lanes.resize(kRows);
  std::vector<Followed> under_way(kRows);
  std::vector<Followed> done;
  for (int64_t step = 0; step < steps; ++step) {
    const Batch batch = loader.next();
    for (int64_t first = 0; first < kRows; first += 2) {
      const Batch micro = rows_of(batch, first, first + 2);
      const int64_t tokens = micro.rows * kLength;
      const LaneStates before = lanes.before(micro, first);
      LaneStates after;
      model.visit([](Parameter& parameter) { parameter.zero_gradient(); });
      Tape tape;
      const LossOut out = model.loss(
          &tape, dtype, layouts_of(micro, data), Tensor::from<int32_t>({tokens}, micro.tokens),
          Tensor::from<int32_t>({tokens}, micro.targets),
          {.scale = 1.0, .z_loss = 0.0, .recompute = recompute},
          {.before = before.empty() ? nullptr : &before, .after = &after});
      tape.backward(out.loss);
      lanes.keep(micro, first, after);
      for (size_t i = 0; i < micro.document_starts.size(); ++i) {
        const int64_t start = micro.document_starts[i];
        const int64_t end =
            i + 1 < micro.document_starts.size() ? micro.document_starts[i + 1] : tokens;
        const auto row = static_cast<size_t>(start / kLength);
        const bool carried = start % kLength == 0 && micro.carried[row] == 1;
        Followed& lane = under_way[static_cast<size_t>(first) + row];
        Followed document = carried ? std::move(lane) : Followed();
        ++document.pieces;
        for (int64_t t = start; t < end; ++t) {
          document.tokens.push_back(micro.tokens[static_cast<size_t>(t)]);
          document.targets.push_back(micro.targets[static_cast<size_t>(t)]);
          document.losses.push_back(out.token_loss.at(t));
        }
        if (end % kLength == 0 && micro.goes_on[row] == 1) {
          lane = std::move(document);
        } else if (document.targets.front() != kIgnoredTarget) {
          done.push_back(std::move(document));
        }
      }
    }
  }
  return done;
}

double worst_gap(HybridModel& model, Dtype dtype, const Followed& document) {
  const auto count = static_cast<int64_t>(document.tokens.size());
  const SequenceLayout layout = SequenceLayout::unpacked(1, count);
  const LossOut whole =
      model.loss(nullptr, dtype, {layout, layout}, Tensor::from<int32_t>({count}, document.tokens),
                 Tensor::from<int32_t>({count}, document.targets), {.scale = 1.0});
  double worst = 0;
  for (int64_t t = 0; t < count; ++t) {
    const double expected = whole.token_loss.at(t);
    worst = std::max(worst,
                     std::abs(document.losses[static_cast<size_t>(t)] - expected) / (1 + expected));
  }
  return worst;
}

ModelOptions with_pattern(PatternKind kind, PositionKind position) {
  ModelOptions options = testing::tiny_options("mwm");
  BlockOptions& block = options.blocks.at("w");
  block.pattern = kind;
  block.position = position;
  block.dilation = kind == PatternKind::dilated ? 3 : 0;
  block.global_tokens =
      kind == PatternKind::sink_window || kind == PatternKind::global_window ? 2 : 0;
  if (kind == PatternKind::chunked) {
    block.pattern_block = 7;
    block.window = 0;
  }
  return options;
}

class LanesOfModels : public ::testing::TestWithParam<const char*> {};

TEST_P(LanesOfModels, PiecesHaveTheLossesOfTheWholeDocument) {
  const testing::TemporaryFolder folder;
  testing::write_corpus(folder.path(), random_documents(), kVocabulary);
  for (const auto& [dtype, tolerance] : {std::pair{Dtype::f64, 1e-12}, {Dtype::f32, 1e-5}}) {
    HybridModel model = testing::tiny_model(GetParam(), dtype);
    for (const bool recompute : {false, true}) {
      int64_t pieces = 0;
      for (const Followed& document :
           follow(model, dtype, lane_data(folder.path()), 16, recompute)) {
        pieces = std::max(pieces, document.pieces);
        ASSERT_LT(worst_gap(model, dtype, document), tolerance) << document.pieces << " pieces";
      }
      EXPECT_GE(pieces, 5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LanesOfModels, ::testing::Values("m", "w", "mw", "wmw"));

TEST(Lanes, CarryTheKeysOfEveryPatternWithAWindow) {
  const testing::TemporaryFolder folder;
  testing::write_corpus(folder.path(), random_documents(), kVocabulary);
  const DataOptions data = lane_data(folder.path());
  for (const PatternKind kind : {PatternKind::window, PatternKind::dilated, PatternKind::chunked,
                                 PatternKind::sink_window, PatternKind::global_window}) {
    for (const PositionKind position :
         {PositionKind::rope, PositionKind::alibi, PositionKind::none}) {
      SCOPED_TRACE(name_of(kind).name + ", position " + std::to_string(static_cast<int>(position)));
      const ModelOptions options = with_pattern(kind, position);
      const bool refused =
          options.blocks.at("w").global_tokens > 0 && position == PositionKind::alibi;
      EXPECT_EQ(lane_problems(data, options).size(), refused ? 1U : 0U);
      HybridModel model(options, Initializer{.seed = 7, .dtype = Dtype::f64});
      for (const Followed& document : follow(model, Dtype::f64, data, 6)) {
        ASSERT_LT(worst_gap(model, Dtype::f64, document), 1e-12) << document.pieces << " pieces";
      }
    }
  }
}

// The laws above must be able to fail.
TEST(Lanes, StatesMatter) {
  const testing::TemporaryFolder folder;
  testing::write_corpus(folder.path(), random_documents(), kVocabulary);
  DataOptions data = lane_data(folder.path());
  for (const char* layers : {"m", "w"}) {
    HybridModel model = testing::tiny_model(layers, Dtype::f64);
    // The same rows, but each begins with an empty state.
    Loader loader(data, 4, [](const Progress&) { return RowPlan{kRows, kLength}; });
    double worst = 0;
    Lanes lanes(layers);
    lanes.resize(kRows);
    for (int step = 0; step < 6; ++step) {
      const Batch batch = loader.next();
      const int64_t tokens = kRows * kLength;
      const LaneStates before = lanes.before(batch, 0);
      LaneStates after;
      const auto losses = [&](const HybridModel::Lanes& states) {
        return model
            .loss(nullptr, Dtype::f64, layouts_of(batch, data),
                  Tensor::from<int32_t>({tokens}, batch.tokens),
                  Tensor::from<int32_t>({tokens}, batch.targets), {.scale = 1.0}, states)
            .token_loss;
      };
      const Tensor with = losses({.before = before.empty() ? nullptr : &before, .after = &after});
      const Tensor without = losses({});
      for (int64_t t = 0; t < tokens; ++t) {
        worst = std::max(worst, std::abs(with.at(t) - without.at(t)));
      }
      lanes.keep(batch, 0, after);
    }
    EXPECT_GT(worst, 1e-4) << layers;
  }
}

TEST(Lanes, AreSavedAndLoadedForDocumentsUnderWayAlone) {
  HybridModel model = testing::tiny_model("mw", Dtype::f32);
  Batch batch;
  batch.rows = 3;
  batch.row_length = 8;
  batch.tokens = testing::random_tokens(24, kVocabulary, 1);
  batch.targets = testing::random_tokens(24, kVocabulary, 2);
  batch.document_starts = {0, 8, 14, 16};
  batch.first_positions = {0, 0, 0, 0};
  batch.carried = {0, 0, 0};
  batch.goes_on = {0, 1, 1};
  LaneStates after;
  model.loss(nullptr, Dtype::f32, layouts_of(batch, {}), Tensor::from<int32_t>({24}, batch.tokens),
             Tensor::from<int32_t>({24}, batch.targets), {.scale = 1.0},
             {.before = nullptr, .after = &after});
  Lanes lanes("mw");
  lanes.resize(3);
  lanes.keep(batch, 0, after);
  EXPECT_EQ(lanes.count(), 2);
  std::vector<NamedTensor> tensors = {{"model/embedding", Tensor::zeros({2}, Dtype::f32)}};
  lanes.save(tensors);
  ASSERT_EQ(tensors.size(), 9U);
  EXPECT_EQ(tensors[1].name, "lanes/1/blocks.0/conv");
  EXPECT_EQ(tensors[3].name, "lanes/1/blocks.1/keys");
  EXPECT_EQ(tensors[3].tensor.shape(), Shape({2, 2, 8}));  // its second document has two tokens
  EXPECT_EQ(tensors[7].tensor.shape(), Shape({4, 2, 8}));  // a window of 5 looks back on 4

  Lanes loaded("mw");
  loaded.load(tensors, 3);
  EXPECT_EQ(loaded.count(), 2);
  std::vector<NamedTensor> again = {tensors.front()};
  loaded.save(again);
  ASSERT_EQ(again.size(), tensors.size());
  for (size_t i = 1; i < tensors.size(); ++i) {
    EXPECT_EQ(again[i].name, tensors[i].name);
    EXPECT_EQ(again[i].tensor.values(), tensors[i].tensor.values());
  }
  loaded.forget_keys('w');
  batch.carried = {0, 1, 1};
  const LaneStates before = loaded.before(batch, 0);
  EXPECT_FALSE(before[1].keys.defined());
  EXPECT_EQ(before[1].cached, (std::vector<int64_t>{0, 0, 0}));
  EXPECT_TRUE(before[0].scan.defined());
  loaded.clear();
  EXPECT_EQ(loaded.count(), 0);
  EXPECT_TRUE(loaded.before(batch, 0).empty());
  for (const char* name : {"lanes/3/blocks.0/scan", "lanes/0/blocks.2/scan", "lanes/0/blocks.1/q",
                           "lanes/x/blocks.1/keys"}) {
    try {
      loaded.load({{name, Tensor::zeros({1, 1, 1}, Dtype::f32)}}, 3);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("it is of another run"));
      EXPECT_THAT(error.what(), HasSubstr(name));
    }
  }
}

}  // namespace
}  // namespace sidewinder
