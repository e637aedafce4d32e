#pragma once
// The optimisation loop: sizes of a step, precision, optimizer, schedules, what is watched.

#include <cstdint>
#include <string>

namespace sidewinder {

enum class Precision : uint8_t { f32, bf16, f64 };
enum class LearningRateShape : uint8_t { constant, cosine, linear, wsd };
enum class RecomputeKind : uint8_t { none, block };

struct RunOptions {
  std::string name;    // empty: the recipe's file name without .toml
  std::string folder;  // empty: runs/<name>
  uint64_t seed = 0;
};

struct TrainOptions {
  int64_t steps = 0;
  int64_t context = 0;           // tokens per row
  int64_t tokens_per_step = 0;   // row slots per optimizer step; a multiple of context
  int64_t tokens_per_micro_batch = 0;  // 0: one row; a multiple of context that divides tokens_per_step
  Precision precision = Precision::bf16;
  RecomputeKind recompute = RecomputeKind::none;
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

struct InitOptions {
  std::string from;  // checkpoint folder whose weights a fresh run starts with; empty: random
};

}  // namespace sidewinder
