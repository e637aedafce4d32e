#pragma once
// The optimisation loop: sizes of a step, precision, optimizer, schedules, what is watched.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sidewinder {

enum class Precision : uint8_t { f32, bf16, f64 };
enum class LearningRateShape : uint8_t { constant, cosine, linear, wsd };
enum class RecomputeKind : uint8_t { none, block };
enum class ContextCurve : uint8_t { constant, stages, linear, exponential, sine, cosine, log };
enum class ContextForm : uint8_t { rows, mask };
enum class ContextUnit : uint8_t { steps, row_slots };
enum class ContextRounding : uint8_t { multiple, divisor };
enum class EdgeLearningRate : uint8_t { go_on, rewarm };

struct RunOptions {
  std::string name;    // empty: the recipe's file name without .toml
  std::string folder;  // empty: runs/<name>
  uint64_t seed = 0;
};

struct TrainOptions {
  int64_t steps = 0;
  int64_t context = 0;           // tokens per row; the most of them where the context grows
  int64_t tokens_per_step = 0;   // row slots per optimizer step; a multiple of context
  int64_t tokens_per_micro_batch = 0;  // 0: context; a multiple of context that divides tokens_per_step
  Precision precision = Precision::bf16;
  RecomputeKind recompute = RecomputeKind::none;
  int64_t sequence_chunk = 0;  // tokens of a row computed at once; 0: all
  double z_loss = 0.0;
  int64_t max_skipped_steps = 10;  // non-finite steps in a row before the run stops with exit code 79
  int64_t log_every = 10;
  int64_t validate_every = 0;      // steps; 0: only at the end
  int64_t validate_tokens = 0;     // 0: all validation documents
};

struct OptimizerOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_embeddings = true;
  double max_gradient_norm = 1.0;  // 0: no clipping
};

struct LearningRateOptions {
  LearningRateShape shape = LearningRateShape::cosine;
  double peak = 0.0;
  int64_t warmup_steps = 0;
  double final_share = 0.1;     // of the peak, at the last step (cosine, linear, wsd)
  int64_t decay_steps = 0;      // wsd: steps of the final decay
};

// What a stage sets for all blocks of a letter; 0: as the model has it.
struct StageBlockOptions {
  int64_t window = 0;
  double rope_base = 0;
  double rope_factor = 0;  // in total, from the original context
};

struct StageOptions {
  int64_t from = 0;    // in units of ContextOptions
  int64_t length = 0;  // tokens
  std::map<std::string, StageBlockOptions> blocks;  // by letter
};

// What a curve does with all blocks of a letter.
struct CurveBlockOptions {
  int64_t first_window = 0;  // grows on the curve of the length to the model's window
};

// How the context grows to train.context; see context_schedule.h.
struct ContextOptions {
  ContextCurve curve = ContextCurve::constant;
  ContextForm form = ContextForm::rows;
  ContextUnit unit = ContextUnit::steps;
  int64_t first = 0;  // length at the start of a curve
  int64_t ramp = 0;   // units until a curve reaches train.context
  ContextRounding rounding = ContextRounding::multiple;
  int64_t multiple = 1;
  bool reset_state = true;  // mask: convolution and scan start anew at fragments as well
  EdgeLearningRate learning_rate = EdgeLearningRate::go_on;
  int64_t rewarm_steps = 0;
  bool validate_at_edges = true;
  std::vector<int64_t> validate_lengths;
  std::vector<StageOptions> stages;
  std::map<std::string, CurveBlockOptions> blocks;  // by letter
};

// Context extension of a trained model (init.from): what is measured and when to stop.
struct ExtendOptions {
  int64_t from_context = 0;       // context that the model was trained at; 0: this is no extension
  double max_regression = 0.05;   // nats per token that the loss at from_context may rise
  double min_gain = 0.0;          // nats per token that the loss beyond it must fall by
  bool allow_unscaled = false;    // rotary positions beyond from_context without a change
};

struct InitOptions {
  std::string from;  // checkpoint folder whose weights a fresh run starts with; empty: random
};

}  // namespace sidewinder
