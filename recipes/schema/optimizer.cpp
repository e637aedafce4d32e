#include "recipes/schema.h"

namespace sidewinder {

Section optimizer_section() {
  using Options = OptimizerOptions;
  return section<Options>(
      "optimizer", &Recipe::optimizer,
      {"AdamW (Loshchilov & Hutter 2019) with f32 master weights and moments.",
       {
           field("beta1", &Options::beta1, "decay of the mean of gradients per step",
                 {.at_least = 0, .below = 1}),
           field("beta2", &Options::beta2, "decay of the mean of squared gradients per step",
                 {.at_least = 0, .below = 1}),
           field("eps", &Options::eps, "added to the root of the mean of squares", {.above = 0}),
           field("weight_decay", &Options::weight_decay,
                 "share of a weight taken away per step, times the learning rate; matrices only, "
                 "never A_log, D, norms and biases",
                 {.at_least = 0}),
           field("decay_embeddings", &Options::decay_embeddings,
                 "weight decay on the embedding as well"),
           field("max_gradient_norm", &Options::max_gradient_norm,
                 "longer gradients are scaled down to this global norm; 0: no clipping",
                 {.at_least = 0}),
       }});
}

Section learning_rate_section() {
  using Options = LearningRateOptions;
  return section<Options>(
      "learning_rate", &Recipe::learning_rate,
      {"The learning rate by step: a linear warm-up to the peak, then the shape.",
       {
           field("shape", &Options::shape,
                 "after the warm-up: constant; cosine or linear down to final_share at the last "
                 "step; wsd: constant, then linear over the last decay_steps",
                 {{"constant", LearningRateShape::constant},
                  {"cosine", LearningRateShape::cosine},
                  {"linear", LearningRateShape::linear},
                  {"wsd", LearningRateShape::wsd}}),
           field("peak", &Options::peak, "highest learning rate", {.above = 0}).required(),
           field("warmup_steps", &Options::warmup_steps, "steps from 0 to the peak",
                 {.at_least = 0}),
           field("final_share", &Options::final_share,
                 "learning rate of the last step, of the peak", {.at_least = 0, .at_most = 1})
               .only_with("shape", {"cosine", "linear", "wsd"}),
           field("decay_steps", &Options::decay_steps, "steps of the final decay", {.at_least = 1})
               .required()
               .only_with("shape", "wsd"),
       }});
}

}  // namespace sidewinder
