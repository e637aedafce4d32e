#include "trainer/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/base/error.h"
#include "kernels/tensor/allocator.h"
#include "tests/support/models.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using Windows = std::vector<EvaluationWindow>;

TEST(StridedWindows, AreThoseOfTheReference) {
  EXPECT_EQ(strided_windows(10, 4, 2), (Windows{{0, 4, 4}, {2, 6, 2}, {4, 8, 2}, {6, 10, 2}}));
  const Windows many = strided_windows(4096, 1024, 256);
  EXPECT_EQ(many.size(), 13U);
}

TEST(StridedWindows, ScoreEveryPredictionOnce) {
  for (const int64_t stride : {1, 3, 7}) {
    for (const int64_t predictions : {0, 1, 6, 7, 8, 50}) {
      int64_t next = 0;
      for (const EvaluationWindow& window : strided_windows(predictions, 7, stride)) {
        EXPECT_EQ(window.end - window.scored, next);
        EXPECT_LE(window.end - window.begin, 7);
        next = window.end;
      }
      EXPECT_EQ(next, predictions);
    }
  }
}

TEST(StridedWindows, OfStrideNDoNotOverlap) {
  EXPECT_EQ(strided_windows(10, 4, 4), (Windows{{0, 4, 4}, {4, 8, 4}, {8, 10, 2}}));
}

TEST(StridedWindows, RefuseAStrideThatLeavesPredictionsOut) {
  EXPECT_THROW(strided_windows(10, 4, 5), Error);
  EXPECT_THROW(strided_windows(10, 4, 0), Error);
}

TEST(SingleWindow, IsTheBeginOfDocumentsThatAreLongEnough) {
  EXPECT_EQ(single_window(10, 4), (Windows{{0, 4, 4}}));
  EXPECT_TRUE(single_window(3, 4).empty());
}

TEST(LossSums, AreWeightedByTokens) {
  // Windows of mean 2.0 over 4, 1.0 over 2, 1.5 over 1: 5.1699, not the mean of means, 4.4817.
  LossSums sums;
  sums.nats = 2.0 * 4 + 1.0 * 2 + 1.5;
  sums.targets = 7;
  EXPECT_NEAR(sums.perplexity(), 5.1699, 5e-5);
}

TEST(WindowEvaluation, OfAUniformModelIsTheVocabulary) {
  HybridModel model = testing::tiny_model("mw", Dtype::f32, /*tied=*/false);
  model.visit([](Parameter& parameter) {
    if (parameter.name() == "head.weight") parameter.mutable_value().fill_zero();
  });
  const std::vector<int32_t> document = testing::random_tokens(101, 37, 5);
  for (const int64_t stride : {2, 8}) {
    WindowEvaluation evaluation(model, Dtype::f32);
    evaluation.add(document, strided_windows(100, 8, stride));
    const LossSums& sums = evaluation.finish();
    EXPECT_EQ(sums.targets, 100);
    EXPECT_NEAR(sums.perplexity(), 37.0, 37e-6);
  }
  LossSums stream;
  add_stream(model, Dtype::f32, document, 33, stream);
  EXPECT_NEAR(stream.perplexity(), 37.0, 37e-6);
}

TEST(WindowEvaluation, EqualsEachWindowAlone) {
  HybridModel model = testing::tiny_model("mwf", Dtype::f64);
  const std::vector<int32_t> document = testing::random_tokens(60, 37, 6);
  const Windows windows = strided_windows(59, 16, 5);
  WindowEvaluation together(model, Dtype::f64);
  together.add(document, windows);
  double nats = 0;
  for (const EvaluationWindow& window : windows) {
    WindowEvaluation alone(model, Dtype::f64);
    alone.add(document, {window});
    nats += alone.finish().nats;
  }
  EXPECT_NEAR(together.finish().nats / nats, 1.0, 1e-12);
  EXPECT_EQ(together.finish().targets, 59);
}

TEST(Stream, EqualsOneWindowOverAllWhateverTheChunk) {
  HybridModel model = testing::tiny_model("mwf", Dtype::f64);
  const std::vector<int32_t> document = testing::random_tokens(90, 37, 7);
  WindowEvaluation whole(model, Dtype::f64);
  whole.add(document, single_window(89, 89));
  const LossSums expected = whole.finish();
  for (const int64_t chunk : {1, 4, 7, 64, 200}) {
    LossSums stream;
    add_stream(model, Dtype::f64, document, chunk, stream);
    EXPECT_EQ(stream.targets, 89);
    EXPECT_NEAR(stream.nats / expected.nats, 1.0, 1e-12) << chunk;
    ASSERT_EQ(stream.by_position.buckets().size(), expected.by_position.buckets().size());
    for (size_t i = 0; i < expected.by_position.buckets().size(); ++i) {
      EXPECT_NEAR(stream.by_position.buckets()[i].sum, expected.by_position.buckets()[i].sum, 1e-9);
    }
  }
}

TEST(Stream, OfAWindowedHybridTakesTheSameMemoryForLongerDocuments) {
  HybridModel model = testing::tiny_model("mw", Dtype::f32);
  // How much work space exists at a time depends on which threads meet.
  const testing::OneThread one_thread;
  const auto peak = [&](int64_t tokens) {
    const std::vector<int32_t> document = testing::random_tokens(tokens, 37, 8);
    allocator_of({}).reset_peak();
    LossSums sums;
    add_stream(model, Dtype::f32, document, 64, sums);
    return allocator_of({}).statistics().bytes_peak;
  };
  peak(256);  // packs the weights
  EXPECT_EQ(peak(8192), peak(1024));
}

}  // namespace
}  // namespace sidewinder
