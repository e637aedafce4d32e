#include "recipes/schema.h"

namespace sidewinder {
namespace {

Table<BlockOptions> block_table() {
  using Options = BlockOptions;
  const std::string attention = "attention";
  const std::string mamba = "mamba1";
  const std::string rope = "rope";
  return {
      "One kind of block: a norm and a mixer, then a norm and a feed-forward.",
      {
          field("mixer", &Options::mixer, "what mixes tokens",
                {{mamba, MixerKind::mamba1}, {attention, MixerKind::attention}}),

          field("state", &Options::state, "N, numbers of state per channel", {.at_least = 1})
              .only_with("mixer", mamba),
          field("conv_width", &Options::conv_width,
                "W, tokens seen by the convolution, this one included", {.at_least = 1})
              .only_with("mixer", mamba),
          field("expand", &Options::expand, "inner width E divided by model.width", {.at_least = 1})
              .only_with("mixer", mamba),
          field("dt_rank", &Options::dt_rank,
                "rank of the projection to step sizes; 0: model.width / 16, rounded up",
                {.at_least = 0})
              .only_with("mixer", mamba),
          field("dt_min", &Options::dt_min, "smallest initial step size", {.above = 0})
              .only_with("mixer", mamba),
          field("dt_max", &Options::dt_max, "largest initial step size", {.above = 0})
              .only_with("mixer", mamba),
          field("dt_floor", &Options::dt_floor, "initial step sizes are raised to this",
                {.above = 0})
              .only_with("mixer", mamba),

          field("pattern", &Options::pattern, "which keys a query sees, of those before it",
                {{"full", PatternKind::full}, {"window", PatternKind::window}})
              .only_with("mixer", attention),
          field("window", &Options::window, "tokens a query sees, itself included", {.at_least = 1})
              .required()
              .only_with("mixer", attention)
              .only_with("pattern", "window"),
          field("heads", &Options::heads, "H, query heads; 0: model.width / head_width",
                {.at_least = 0})
              .only_with("mixer", attention),
          field("key_value_heads", &Options::key_value_heads,
                "K, key and value heads, shared by groups of query heads; 0: as many as heads",
                {.at_least = 0})
              .only_with("mixer", attention),
          field("head_width", &Options::head_width, "P, numbers per head", {.at_least = 1})
              .only_with("mixer", attention),
          field("qk_norm", &Options::qk_norm, "RMS norm on queries and keys, per head")
              .only_with("mixer", attention),
          field("position", &Options::position,
                "how a query knows where keys are: rope turns both by their position",
                {{"rope", PositionKind::rope}, {"none", PositionKind::none}})
              .only_with("mixer", attention),
          field("rope_base", &Options::rope_base, "base of the rotary frequencies, before scaling",
                {.above = 1})
              .only_with("mixer", attention)
              .only_with("position", rope),
          field("rotary_share", &Options::rotary_share, "share of each head that is turned",
                {.at_most = 1, .above = 0})
              .only_with("mixer", attention)
              .only_with("position", rope),

          field("feed_forward", &Options::feed_forward, "what follows the mixer",
                {{"none", FeedForwardKind::none}, {"swiglu", FeedForwardKind::swiglu}}),
          field("hidden", &Options::hidden,
                "F, hidden width of the feed-forward; 0: 8/3 · model.width, rounded up to a "
                "multiple of 64",
                {.at_least = 0})
              .only_with("feed_forward", "swiglu"),
      }};
}

}  // namespace

Section model_section() {
  using Options = ModelOptions;
  return section<Options>(
      "model", &Recipe::model,
      {"The network: an embedding, blocks in the order of `layers`, a norm and the output layer.",
       {
           field("width", &Options::width, "D, numbers per token between blocks", {.at_least = 1})
               .required(),
           field("vocabulary", &Options::vocabulary, "V, token ids; that of the tokenizer",
                 {.at_least = 1})
               .required(),
           field("layers", &Options::layers,
                 "the blocks in order, one letter each, as in \"mmw\"; every letter has a table "
                 "[model.block.<letter>]; spaces are for the eye")
               .required(),
           field("repeat", &Options::repeat, "how often `layers` is repeated", {.at_least = 1}),
           field("tied_embeddings", &Options::tied_embeddings,
                 "the output layer uses the weights of the embedding"),
           field("norm_eps", &Options::norm_eps, "added to the mean square in RMS norms",
                 {.above = 0}),
           field("logit_soft_cap", &Options::logit_soft_cap,
                 "c of logits = c · tanh(logits / c); 0: no cap", {.at_least = 0}),
           field("max_context", &Options::max_context,
                 "longest row the model is made for, in tokens; 0: train.context", {.at_least = 0}),
       },
       {tables_by_letter("block", &Options::blocks, block_table())}});
}

}  // namespace sidewinder
