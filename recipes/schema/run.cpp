#include "recipes/schema.h"

namespace sidewinder {

Section run_section() {
  return section<RunOptions>(
      "run", &Recipe::run,
      {"The run as a whole.",
       {
           field("name", &RunOptions::name,
                 "name of the run; empty: the recipe's file name without .toml")
               .may_change_on_resume(),
           field("folder", &RunOptions::folder,
                 "folder of checkpoints, metrics and log; empty: runs/<name>")
               .may_change_on_resume(),
           field("seed", &RunOptions::seed,
                 "key of all random numbers: initial weights, order of documents"),
       }});
}

Section init_section() {
  return section<InitOptions>(
      "init", &Recipe::init,
      {"Where a fresh run gets its weights.",
       {
           field(
               "from", &InitOptions::from,
               "checkpoint folder whose weights a fresh run starts with; optimizer, step and data "
               "start anew; empty: random weights"),
       }});
}

Section extend_section() {
  using Options = ExtendOptions;
  return section<Options>(
      "extend", &Recipe::extend,
      {"Extension of the context of the model in init.from: losses near (at the context it knew) and "
       "far (beyond) are measured before, without training, at the end of every stage of [context] "
       "and at the end, and the run stops with exit code 79 where a bound is not kept.",
       {
           field("from_context", &Options::from_context,
                 "context that the model was trained at, in tokens; 0: this is no extension",
                 {.at_least = 0}),
           field("max_regression", &Options::max_regression,
                 "nats per token that the loss at from_context may rise", {.at_least = 0})
               .may_change_on_resume(),
           field("allow_unscaled", &Options::allow_unscaled,
                 "accept queries that see further than from_context with rotary positions as they "
                 "were: to compare with what scaling gives"),
           field("min_gain", &Options::min_gain,
                 "nats per token that the loss beyond from_context must fall by, stage for stage")
               .may_change_on_resume(),
       }});
}

}  // namespace sidewinder
