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

}  // namespace sidewinder
