#include "recipes/schema.h"

namespace sidewinder {
namespace {

const std::vector<std::string> kCurves = {"linear", "exponential", "sine", "cosine", "log"};
const std::vector<std::string> kGrowing = {"stages", "linear", "exponential",
                                           "sine",   "cosine", "log"};

Nested<ContextOptions> stage_tables() {
  using Block = StageBlockOptions;
  const Table<Block> block = {
      "What a stage sets for the blocks of a letter.",
      {
          field("window", &Block::window,
                "tokens a query sees, itself included; 0: as in [model.block.<letter>]",
                {.at_least = 0}),
          field("rope_base", &Block::rope_base,
                "base of the rotary frequencies; 0: as in [model.block.<letter>]", {.at_least = 0}),
          field("rope_factor", &Block::rope_factor,
                "factor of the block's rope_scaling, in total, from the original context; 0: as in "
                "[model.block.<letter>]",
                {.at_least = 0}),
      }};
  using Stage = StageOptions;
  const Table<Stage> stage = {
      "A stage of curve = \"stages\". Lengths, windows, bases and factors may only grow; the last "
      "stage has train.context and what the model has.",
      {
          field("from", &Stage::from,
                "when it begins, in units; it takes effect at the next step. The first begins at 0",
                {.at_least = 0})
              .required(),
          field("length", &Stage::length, "context, in tokens", {.at_least = 1}).required(),
      },
      {optional(tables_by_letter("block", &Stage::blocks, block))}};
  return optional(list_of_tables("stage", &ContextOptions::stages, stage));
}

Nested<ContextOptions> curve_block_tables() {
  using Block = CurveBlockOptions;
  const Table<Block> block = {
      "Windows that grow along the curve of the length, up to that of the model.",
      {field("first_window", &Block::first_window, "window at the start", {.at_least = 1})
           .required()}};
  return optional(tables_by_letter("block", &ContextOptions::blocks, block));
}

}  // namespace

Section context_section() {
  using Options = ContextOptions;
  return section<Options>(
      "context", &Recipe::context,
      {"How the context grows to train.context. All of it follows from the step, at step edges, "
       "and row slots per step stay the same.",
       {
           field("curve", &Options::curve,
                 "length by time: constant; stages, a table; or a curve from `first` to "
                 "train.context, see trainer/context_schedule.h",
                 {{"constant", ContextCurve::constant},
                  {"stages", ContextCurve::stages},
                  {"linear", ContextCurve::linear},
                  {"exponential", ContextCurve::exponential},
                  {"sine", ContextCurve::sine},
                  {"cosine", ContextCurve::cosine},
                  {"log", ContextCurve::log}}),
           field("form", &Options::form,
                 "rows: shorter rows, more of them; mask: rows of train.context in which each "
                 "document is cut into fragments that see nothing of each other",
                 {{"rows", ContextForm::rows}, {"mask", ContextForm::mask}})
               .only_with("curve", kGrowing),
           field("unit", &Options::unit, "of `ramp` and of the beginnings of stages",
                 {{"steps", ContextUnit::steps}, {"row_slots", ContextUnit::row_slots}})
               .only_with("curve", kGrowing),
           field("first", &Options::first, "context at the start of a curve, in tokens",
                 {.at_least = 1})
               .required()
               .only_with("curve", kCurves),
           field("ramp", &Options::ramp,
                 "units until the curve reaches train.context; for one more token every K units, "
                 "linear with K · (train.context − first)",
                 {.at_least = 1})
               .required()
               .only_with("curve", kCurves),
           field("multiple", &Options::multiple,
                 "lengths and windows on the curve are rounded down to a multiple of this, but "
                 "never below where they begin",
                 {.at_least = 1})
               .only_with("curve", kCurves),
           field("rounding", &Options::rounding,
                 "of lengths on the curve: down to a multiple; or down to a multiple that divides "
                 "train.tokens_per_step, so that rows per step are whole",
                 {{"multiple", ContextRounding::multiple}, {"divisor", ContextRounding::divisor}})
               .only_with("curve", kCurves)
               .only_with("form", "rows"),
           field("reset_state", &Options::reset_state,
                 "convolution and scan start anew at fragments, as attention does")
               .only_with("curve", kGrowing)
               .only_with("form", "mask"),
           field("learning_rate", &Options::learning_rate,
                 "at the start of a later stage: continue with the schedule, or rewarm, linearly "
                 "from "
                 "0 up to the schedule",
                 {{"continue", EdgeLearningRate::go_on}, {"rewarm", EdgeLearningRate::rewarm}})
               .only_with("curve", "stages"),
           field("rewarm_steps", &Options::rewarm_steps, "steps of the learning rate's new warm-up",
                 {.at_least = 1})
               .required()
               .only_with("curve", "stages")
               .only_with("learning_rate", "rewarm"),
           field(
               "validate_at_edges", &Options::validate_at_edges,
               "validate at the old and the new context when a stage begins (on a curve, whenever "
               "the first context has doubled again)")
               .only_with("curve", kGrowing)
               .may_change_on_resume(),
           field("validate_lengths", &Options::validate_lengths,
                 "further contexts of every validation; it always uses the present one",
                 {.at_least = 1})
               .may_change_on_resume(),
       },
       {curve_block_tables(), stage_tables()}});
}

}  // namespace sidewinder
