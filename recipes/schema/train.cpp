#include <limits>

#include "recipes/schema.h"

namespace sidewinder {
namespace {

// Tokens of a step, which is one batch, are numbered in 31 bits (data/batch.h).
constexpr int64_t kMostTokensAtOnce = std::numeric_limits<int32_t>::max();

}  // namespace

Section train_section() {
  using Options = TrainOptions;
  return section<Options>(
      "train", &Recipe::train,
      {"The optimisation loop.",
       {
           field("steps", &Options::steps, "optimizer steps to run", {.at_least = 1})
               .required()
               .may_grow_on_resume(),
           field("context", &Options::context, "tokens per row",
                 {.at_least = 1, .at_most = kMostTokensAtOnce})
               .required(),
           field("tokens_per_step", &Options::tokens_per_step,
                 "row slots per optimizer step, padding included; a multiple of context",
                 {.at_least = 1, .at_most = kMostTokensAtOnce})
               .required(),
           field("tokens_per_micro_batch", &Options::tokens_per_micro_batch,
                 "row slots computed at once; a multiple of context that divides tokens_per_step; "
                 "0: one row",
                 {.at_least = 0, .at_most = kMostTokensAtOnce}),
           field("precision", &Options::precision,
                 "type of activations and of the weights in matrix products; master weights, sums "
                 "and states are f32 (f64 with f64, which is for checks)",
                 {{"f32", Precision::f32}, {"bf16", Precision::bf16}, {"f64", Precision::f64}}),
           field(
               "recompute", &Options::recompute,
               "block keeps only the inputs of blocks and computes the rest again in the backward "
               "pass: less memory, about a third more time",
               {{"none", RecomputeKind::none}, {"block", RecomputeKind::block}})
               .may_change_on_resume(),
           field(
               "sequence_chunk", &Options::sequence_chunk,
               "tokens of a row computed at once: states and windows of keys are carried from "
               "chunk to chunk, gradients flow back through them, and each chunk is computed again "
               "in the backward pass, so that memory hardly grows with the row (it does where "
               "attention sees all keys); exact but for rounding, about a third more time; 0: "
               "whole rows",
               {.at_least = 0}),
           field("z_loss", &Options::z_loss, "weight of lse² in the loss of a token",
                 {.at_least = 0}),
           field("max_skipped_steps", &Options::max_skipped_steps,
                 "steps with a non-finite loss or gradient, in a row, before the run stops",
                 {.at_least = 0})
               .may_change_on_resume(),
           field("log_every", &Options::log_every, "steps from one log line to the next",
                 {.at_least = 1})
               .may_change_on_resume(),
           field("validate_every", &Options::validate_every,
                 "steps from one validation to the next; 0: only at the end", {.at_least = 0})
               .may_change_on_resume(),
           field("validate_tokens", &Options::validate_tokens,
                 "validation tokens used each time; 0: all", {.at_least = 0})
               .may_change_on_resume(),
       }});
}

}  // namespace sidewinder
