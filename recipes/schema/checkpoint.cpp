#include "recipes/schema.h"

namespace sidewinder {

Section checkpoint_section() {
  using Options = CheckpointOptions;
  return section<Options>(
      "checkpoint", &Recipe::checkpoint,
      {"When the state is saved and what is kept. The end of the run and a stop by signal always "
       "save.",
       {
           field("every_steps", &Options::every_steps,
                 "steps from one checkpoint to the next; 0: only at the end and when stopped",
                 {.at_least = 0})
               .may_change_on_resume(),
           field("asynchronous", &Options::asynchronous,
                 "save while training goes on, from a copy of the state (3 x the parameters), which "
                 "takes memory from the start; false: training waits until the checkpoint is written")
               .may_change_on_resume(),
           field("keep_last", &Options::keep_last, "newest checkpoints that are kept",
                 {.at_least = 1})
               .may_change_on_resume(),
           field("keep_every", &Options::keep_every,
                 "checkpoints at multiples of this many steps are kept for good; 0: none",
                 {.at_least = 0})
               .may_change_on_resume(),
       }});
}

}  // namespace sidewinder
