#pragma once
// The training loop. step() is one optimizer step; run() repeats it, logs, validates, saves, and
// stops cleanly when asked. Everything that decides the next bits is in the checkpoint.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/background_saver.h"
#include "checkpoints/store.h"
#include "data/loader.h"
#include "model/model.h"
#include "trainer/context_schedule.h"
#include "trainer/lanes.h"
#include "trainer/metrics.h"
#include "trainer/optimizer.h"
#include "trainer/options.h"
#include "trainer/position_losses.h"

namespace sidewinder {

// Of activations and of the weights in products.
Dtype dtype_of(Precision precision);

// All a Trainer needs to know; each part belongs to its folder's options.
struct TrainerOptions {
  RunOptions run;
  TrainOptions train;
  ContextOptions context;
  OptimizerOptions optimizer;
  LearningRateOptions learning_rate;
  DataOptions data;
  CheckpointOptions checkpoint;
  std::string resolved_recipe;    // stored in every checkpoint
  std::string origin;  // JSON of where the first weights came from, kept in checkpoints; may be empty
  std::string instruction_set;        // of the kernels in use; bits depend on it
  bool allow_different_cpu = false;   // resume although another instruction set made the checkpoint
  double peak_flops = 0;              // measured at start, what MFU divides by; 0: no MFU
  // Called after the last step of every stage of the context, the model being as in that stage.
  // Returns why the run should stop there, or nothing.
  std::function<std::optional<std::string>(int64_t step, const ContextPlan&)> at_stage_end;
};

struct StepReport {
  int64_t step = 0;  // the step just made, from 1
  double loss = 0;   // nats per target
  double gradient_norm = 0;
  double learning_rate = 0;
  int64_t targets = 0;
  int64_t row_slots = 0;
  int64_t padding = 0;
  double flops = 0;    // of forward and backward, see HybridModel::training_flops
  double seconds = 0;
  double data_seconds = 0;  // of these, waiting for the batch
  bool skipped = false;  // not finite: no update was made
  ContextPlan context;
  PositionLosses by_position;
};

struct Evaluation {
  double loss = 0;  // nats per target
  int64_t targets = 0;
  int64_t bytes = 0;  // of the text behind them; 0: not known
  double bits_per_byte() const;
};

// Documents of a folder of shards through a model: mean loss over all targets. Where the rows have
// lanes, documents go on with their states. `per_token`, if given, is called with every batch and
// its token losses.
Evaluation evaluate(HybridModel& model, Dtype dtype, DocumentRows& rows, const DataOptions& data,
                    int64_t row_length, int64_t rows_per_batch,
                    const std::function<void(const Batch&, const Tensor&)>& per_token = {});

// The same, but documents do not go on from row to row with their states: each piece of a long one
// begins anew. For losses at a given context.
DataOptions without_lanes(DataOptions data);

// Rows [begin, end) of a batch as a batch of their own.
Batch rows_of(const Batch& batch, int64_t begin, int64_t end);

// Layouts of a batch as the isolation options demand. The second form also cuts the sequences into
// the fragments of the plan, each of which is then as a row of its own.
Layouts layouts_of(const Batch& batch, const DataOptions& options);
Layouts layouts_of(const Batch& batch, const DataOptions& options, const ContextPlan& context);

// What a run did since it was started, for the closing summary.
struct RunSummary {
  int64_t steps = 0;
  double recent_loss = 0;       // mean of the last recent_steps
  int64_t recent_steps = 0;
  double tokens_per_second = 0;  // row slots over the time of steps
  double mfu = 0;
  double wait_share = 0;     // of the time of steps: waiting for data
  int64_t saves = 0;         // while training went on
  double stall_seconds = 0;  // that training waited for them, in all
  double copy_seconds = 0;   // of these, for the copies
};

class ProgressReporter;

class Trainer {
 public:
  // Continues from `checkpoint` if there is one. The caller holds the lock of run.folder.
  Trainer(HybridModel& model, const TrainerOptions& options,
          const std::optional<CheckpointContent>& checkpoint = {});
  ~Trainer();

  StepReport step();
  // Steps until train.steps. Returns ExitCode::success, or requeue when a stop was requested and the
  // state is saved. Throws Error{numeric_stop} after too many skipped steps in a row.
  ExitCode run();

  int64_t steps_done() const { return state_.progress.step; }
  const RunSummary& summary() const { return summary_; }
  const Loader& loader() const { return *loader_; }
  void save();  // returns when the checkpoint is complete
  // At the context of the next step, as training goes through documents (with continue_state they
  // go on from row to row with their states), and at context.validate_lengths, also at `old_length`
  // unless 0, where each row begins anew.
  std::optional<Evaluation> validate(int64_t old_length = 0);
  std::optional<Evaluation> last_validation() const { return last_validation_; }

 private:
  struct RunState {
    Progress progress;
    int64_t updates = 0;  // steps that were not skipped: Adam's t
    int64_t targets = 0;
    int64_t skipped = 0;
    int64_t skipped_in_a_row = 0;
    int64_t cut_documents = 0;  // times that a document under way lost states here; see cut_states()
    DataCounts before_stage;  // what had become of the documents when the stage began
  };

  void load(const CheckpointContent& content, std::string* cursor);
  std::string state_json() const;
  CheckpointContent content() const;  // of tensors that change with the next step
  void save_in_background();
  void log_save(std::vector<Metric>& metrics);
  void saving(const std::function<void()>& save) const;
  int64_t saved_step() const;  // of the newest complete checkpoint; -1: none
  void log(const StepReport& report, ProgressReporter& progress);
  Evaluation validate_at(int64_t length, bool by_lanes);
  // Drops those states of documents under way that do not fit what `plan` changes.
  void cut_states(const ContextPlan& plan);
  void report_edge(const ContextPlan& old_plan, const ContextPlan& new_plan);
  void report_stage(const ContextPlan& plan) const;

  HybridModel& model_;
  TrainerOptions options_;
  ContextSchedule schedule_;
  Dtype dtype_;
  Optimizer optimizer_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<BackgroundSaver> saver_;
  RunState state_;
  Lanes lanes_;
  std::optional<ContextPlan> last_plan_;  // of the step before
  RunSummary summary_;
  std::vector<double> recent_losses_;
  double seconds_ = 0;
  double data_seconds_ = 0;
  double flops_ = 0;
  int64_t row_slots_ = 0;
  int64_t resumed_step_ = -1;  // of the checkpoint that the run continued; -1: none
  std::optional<double> stall_seconds_;  // of the save after the step before
  std::optional<Evaluation> last_validation_;
};

}  // namespace sidewinder
