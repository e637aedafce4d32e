#pragma once
// The context schedule: how long the sequences of a step are, and all that follows from it. A pure
// function of Progress, so that nothing of it is stored and a resumed run recomputes the same.
//
// Curves, with x = t / ramp clamped to [0, 1], t in steps or row slots, w0 = context.first and
// w1 = train.context (Zhu et al. 2025, arXiv:2503.15450, with a cosine that does not overshoot):
//   linear       w0 + ⌊(w1 − w0) x⌋
//   exponential  ⌊w0 (w1 / w0)^x⌋
//   sine         w0 + ⌊(w1 − w0) sin(πx / 2)⌋
//   cosine       w0 + ⌊(w1 − w0) (1 − cos πx) / 2⌋
//   log          ⌊w0 (w1 / w0)^(ln(1 + t) / ln(1 + ramp))⌋
// then rounded down, w0 being the least and w1 what is reached at x = 1. Stages are a table
// instead.
//
// Two forms shorten the context. `rows`: the packer makes shorter rows, more of them, at the same
// row slots per step. `mask`: rows keep train.context, and each sequence in them (a document, or
// the whole row where documents are not isolated) is cut every `length` tokens: attention,
// positions and states start anew at each fragment, as if it were a row of its own.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/loader.h"
#include "model/model.h"
#include "trainer/options.h"

namespace sidewinder {

// Length at time t of a curve (not constant, not stages), before rounding.
int64_t curve_length(ContextCurve curve, int64_t first, int64_t last, int64_t t, int64_t ramp);

// What the schedule sets for all blocks of a letter.
struct BlockPlan {
  int64_t window = 0;      // tokens that a query sees, itself included; 0: all
  double rope_base = 0;    // 0: no stage sets it
  double rope_factor = 0;  // of the block's scaling, in total; 0: no stage sets it
  bool operator==(const BlockPlan&) const = default;
};

// One step's share of the schedule.
struct ContextPlan {
  // Counts the edges before: begins of stages; of a curve, each doubling of its first length. At an
  // edge a run reports and may validate.
  int64_t stage = 0;
  int64_t length = 0;  // tokens of the longest sequence that anything sees
  RowPlan rows;
  int64_t fragment = 0;                     // 0: sequences are not cut
  bool cut_states = false;                  // convolution and scan start anew at fragments
  std::map<std::string, BlockPlan> blocks;  // of the letters that the schedule names
  bool operator==(const ContextPlan&) const = default;
};

// What does not fit together, in terms of recipe keys.
struct ContextProblem {
  std::vector<std::string> keys;  // that it involves; the first is to blame
  std::string what;
  std::string advice;
};
std::vector<ContextProblem> context_problems(const ContextOptions& options,
                                             const TrainOptions& train, const ModelOptions& model);

class ContextSchedule {
 public:
  // Error{user} if context_problems() finds any.
  ContextSchedule(const ContextOptions& options, const TrainOptions& train,
                  const ModelOptions& model);

  ContextPlan at(const Progress& progress) const;
  // The progress before step `step` (from 0) of a run from its start.
  Progress progress_at(int64_t step) const;
  // The first step after `step` with another plan, or `end` if there is none before it.
  int64_t next_change(int64_t step, int64_t end) const;
  // Share of the scheduled learning rate: (k + 1) / rewarm_steps at step k of a stage but the first
  // with context.learning_rate = "rewarm", while below 1.
  double learning_rate_share(const Progress& progress) const;
  // Rows computed at once: as many as hold no more slots than a micro-batch, but at least one.
  int64_t rows_at_once(int64_t row_length) const;
  bool is_constant() const { return options_.curve == ContextCurve::constant; }

 private:
  int64_t time(const Progress& progress) const;
  size_t stage_at(const Progress& progress) const;
  BlockPlan stage_block(size_t stage, const std::string& letter) const;

  ContextOptions options_;
  TrainOptions train_;
  std::map<std::string, BlockOptions> blocks_;  // of the model, by the letters that are scheduled
};

// Sets windows and rotary positions of the plan in the model.
void apply(const ContextPlan& plan, HybridModel& model);

// "context 512, 32 rows of 512, window of w 128"
std::string text_of(const ContextPlan& plan);

}  // namespace sidewinder
