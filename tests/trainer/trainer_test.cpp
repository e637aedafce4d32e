// Steps of a run in one process: how tokens are weighted, and what a resumed run repeats.

#include "trainer/trainer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "kernels/base/digest.h"
#include "kernels/ops/rope.h"
#include "tests/support/models.h"
#include "tests/support/program.h"
#include "tests/support/random.h"
#include "tests/support/small_corpus.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::TemporaryFolder;

constexpr int32_t kVocabulary = 37;
constexpr uint64_t kSeed = 4;

// Documents of 1 to 100 tokens, so that rows have targets and documents in unequal numbers.
TrainerOptions options_in(const TemporaryFolder& folder) {
  testing::Documents documents;
  for (const int64_t length : testing::random_lengths(60, 100, 3)) {
    documents.push_back(testing::random_tokens(length, kVocabulary, documents.size()));
  }
  testing::write_corpus(folder / "corpus", documents, kVocabulary);
  TrainerOptions options;
  options.run.folder = folder / "run";
  options.run.seed = kSeed;
  options.train.steps = 14;
  options.train.context = 64;
  options.train.tokens_per_step = 256;
  options.train.precision = Precision::f64;
  options.learning_rate.peak = 1e-2;
  options.learning_rate.warmup_steps = 2;
  options.data.train = {{"corpus", folder / "corpus", 1.0}};
  options.data.packing_buffer = 5;
  return options;
}

std::map<std::string, Tensor> gradients_of(HybridModel& model) {
  std::map<std::string, Tensor> gradients;
  model.visit([&](Parameter& parameter) {
    gradients[parameter.name()] = parameter.gradient().to(Dtype::f64).clone();
  });
  return gradients;
}

TEST(Trainer, WeightsEveryTargetOfAStepAlike) {
  const TemporaryFolder folder;
  TrainerOptions options = options_in(folder);
  options.train.context = 32;
  options.data.mask_joints = true;
  // The batch of the first step, and the losses of its tokens under the first weights.
  Loader loader(options.data, kSeed, [](const Progress&) { return RowPlan{8, 32}; });
  const Batch batch = loader.next();
  HybridModel model = testing::tiny_model("mw", Dtype::f64);
  model.visit([](Parameter& parameter) { parameter.zero_gradient(); });
  double mean_of_rows = 0;
  double sum = 0;
  // Each row as if on a rank or in an accumulation step of its own: over all targets of the step.
  for (int64_t row = 0; row < batch.rows; ++row) {
    const Batch one = rows_of(batch, row, row + 1);
    const HybridModel::StepLoss out = model.loss_and_gradients(
        Dtype::f64, layouts_of(one, options.data), Tensor::from<int32_t>({32}, one.tokens),
        Tensor::from<int32_t>({32}, one.targets),
        {.scale = 1.0 / static_cast<double>(batch.num_targets)}, {});
    double of_row = 0;
    int64_t targets = 0;
    for (int64_t t = 0; t < 32; ++t) {
      if (one.targets[static_cast<size_t>(t)] == kIgnoredTarget) continue;
      of_row += out.token_loss.at(t);
      ++targets;
    }
    sum += of_row;
    mean_of_rows += of_row / static_cast<double>(targets) / static_cast<double>(batch.rows);
  }
  const double mean = sum / static_cast<double>(batch.num_targets);
  ASSERT_GT(std::abs(mean_of_rows - mean), 1e-5) << "rows have too equal numbers of targets";
  const auto by_rows = gradients_of(model);

  for (const int64_t at_once : {32, 64, 256}) {
    SCOPED_TRACE(at_once);
    options.train.tokens_per_micro_batch = at_once;
    options.run.folder = folder / ("run-" + std::to_string(at_once));
    HybridModel trained = testing::tiny_model("mw", Dtype::f64);
    Trainer trainer(trained, options);
    const StepReport report = trainer.step();
    EXPECT_EQ(report.targets, batch.num_targets);
    EXPECT_NEAR(report.loss, mean, 1e-12 * mean);
    for (const auto& [name, gradient] : gradients_of(trained)) {
      EXPECT_LT(testing::relative_error(gradient, by_rows.at(name)), 1e-11) << name;
    }
  }
}

// Rows of 16, 32 and 64 from steps 0, 4 and 9, with windows and rotary bases of their own.
TrainerOptions growing_in(const TemporaryFolder& folder) {
  TrainerOptions options = options_in(folder);
  options.context.curve = ContextCurve::stages;
  options.context.stages = {{0, 16, {{"w", {.window = 2, .rope_base = 100}}}},
                            {4, 32, {{"w", {.window = 4, .rope_base = 1000}}}},
                            {9, 64, {}}};
  options.context.learning_rate = EdgeLearningRate::rewarm;
  options.context.rewarm_steps = 3;
  options.data.long_documents = LongDocuments::defer;
  options.checkpoint.keep_last = 100;
  options.train.precision = Precision::f32;
  return options;
}

std::string digest_of_batch(const Batch& batch) {
  Digest digest;
  for (const auto* part :
       {&batch.tokens, &batch.targets, &batch.document_starts, &batch.first_positions}) {
    digest.update(part->data(), part->size() * sizeof(int32_t));
  }
  return digest.text();
}

std::string digest_of_table(const RopeOptions& options) {
  const RopeTable table = ops::rope_table(options, 64, Dtype::f32);
  Digest digest;
  for (const Tensor& part : {table.cosine, table.sine}) {
    digest.update(part.data<float>(), static_cast<size_t>(part.count()) * sizeof(float));
  }
  return digest.text();
}

struct Seen {
  double loss = 0;
  double learning_rate = 0;
  int64_t context = 0;
  int64_t window = 0;
  std::string table;
  std::string cursor;  // after the step
  bool operator==(const Seen&) const = default;
};

Seen step_of(Trainer& trainer, const HybridModel& model) {
  const StepReport report = trainer.step();
  const BlockContext& block = model.block_context('w');
  return {report.loss,  report.learning_rate,        report.context.length,
          block.window, digest_of_table(block.rope), trainer.loader().cursor().text};
}

TEST(Trainer, ResumedAroundTheEdgesOfStagesRepeatsEveryStep) {
  const TemporaryFolder folder;
  const TrainerOptions options = growing_in(folder);
  const ContextSchedule schedule(options.context, options.train, testing::tiny_options("mw"));
  const auto plan = [&](const Progress& at) { return schedule.at(at).rows; };
  DataOptions data = options.data;
  data.longest_row = options.train.context;  // as a Trainer says it
  std::vector<Seen> whole;
  std::vector<std::string> batches;
  std::vector<std::string> checkpoints;
  {
    HybridModel model = testing::tiny_model("mw", Dtype::f32);
    Trainer trainer(model, options);
    Loader loader(data, kSeed, plan);
    for (int64_t step = 0; step < options.train.steps; ++step) {
      whole.push_back(step_of(trainer, model));
      trainer.save();
      batches.push_back(digest_of_batch(loader.next()));
    }
    for (const FoundCheckpoint& found : list_checkpoints(options.run.folder)) {
      checkpoints.push_back(found.folder);
    }
    std::sort(checkpoints.begin(), checkpoints.end());
  }
  ASSERT_EQ(checkpoints.size(), whole.size());
  // The edges are there, and each changes all that it should.
  for (const size_t edge : {size_t{4}, size_t{9}}) {
    EXPECT_GT(whole[edge].context, whole[edge - 1].context);
    EXPECT_GT(whole[edge].window, whole[edge - 1].window);
    EXPECT_NE(whole[edge].table, whole[edge - 1].table);
    EXPECT_LT(whole[edge].learning_rate, whole[edge - 1].learning_rate);
  }
  for (const size_t done : {3, 4, 5, 8, 9, 10}) {  // before, at and after them
    SCOPED_TRACE(done);
    TrainerOptions again = options;
    again.run.folder = folder / ("again-" + std::to_string(done));
    HybridModel model = testing::tiny_model("mw", Dtype::f32);
    const CheckpointContent content = load_checkpoint(checkpoints[done - 1]);
    Trainer trainer(model, again, content);
    Loader loader(data, kSeed, plan, schedule.progress_at(static_cast<int64_t>(done)),
                  Cursor{whole[done - 1].cursor});
    for (size_t step = done; step < whole.size(); ++step) {
      EXPECT_EQ(digest_of_batch(loader.next()), batches[step]) << step;
      EXPECT_EQ(step_of(trainer, model), whole[step]) << step;
    }
  }
}

// Mean loss over all targets of documents in rows of their own, cut every `length` tokens.
double loss_alone(HybridModel& model, const testing::Documents& documents, int64_t length) {
  double sum = 0;
  double targets = 0;
  for (const std::vector<int32_t>& document : documents) {
    const auto end = static_cast<int64_t>(document.size()) - 1;
    for (int64_t begin = 0; begin < end; begin += length) {
      const int64_t count = std::min(length, end - begin);
      const auto at = document.begin() + begin;
      const SequenceLayout layout = SequenceLayout::unpacked(1, count);
      sum += model
                 .loss(nullptr, Dtype::f64, {layout, layout},
                       Tensor::from<int32_t>({count}, {at, at + count}),
                       Tensor::from<int32_t>({count}, {at + 1, at + 1 + count}), {.scale = 1.0})
                 .loss.value()
                 .at(0);
      targets += static_cast<double>(count);
    }
  }
  return sum / targets;
}

// Documents that go on with their states in training do so in validation: its loss is that of whole
// documents. At a given context they begin anew in each row.
TEST(Trainer, ValidationCarriesStatesAsTrainingDoes) {
  const TemporaryFolder folder;
  testing::Documents documents;
  std::vector<int64_t> lengths = testing::random_lengths(12, 100, 6);
  lengths.push_back(200);
  for (const int64_t length : lengths) {
    documents.push_back(testing::random_tokens(length, kVocabulary, documents.size()));
  }
  testing::write_corpus(folder / "held-out", documents, kVocabulary, 1000, documents);
  TrainerOptions options = options_in(folder);
  options.train.context = 32;
  options.train.tokens_per_micro_batch = 128;  // four lanes
  options.data.validation = folder / "held-out/validation";
  options.context.validate_lengths = {32, 48};
  for (const LongDocuments policy :
       {LongDocuments::continue_state, LongDocuments::continue_reset}) {
    options.data.long_documents = policy;
    options.run.folder = folder / ("run-" + std::to_string(static_cast<int>(policy)));
    HybridModel model = testing::tiny_model("mwm", Dtype::f64);
    Trainer trainer(model, options);
    const std::optional<Evaluation> result = trainer.validate();
    ASSERT_TRUE(result);
    const double whole = loss_alone(model, documents, 1000);
    const double in_rows = loss_alone(model, documents, 32);
    EXPECT_GT(std::abs(whole - in_rows), 1e-4);
    const bool carries = policy == LongDocuments::continue_state;
    EXPECT_NEAR(result->loss, carries ? whole : in_rows, 1e-11);
    const nlohmann::json record =
        nlohmann::json::parse(testing::read_file(options.run.folder + "/metrics.jsonl"));
    EXPECT_NEAR(record["validation/loss"].get<double>(), result->loss, 1e-6);
    EXPECT_NEAR(record["validation/loss_at_32"].get<double>(), in_rows, 1e-6);
    EXPECT_NEAR(record["validation/loss_at_48"].get<double>(), loss_alone(model, documents, 48),
                1e-6);
  }
}

}  // namespace
}  // namespace sidewinder
