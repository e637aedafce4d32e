#include <algorithm>

#include "recipes/schema.h"

namespace sidewinder {
namespace {

std::vector<std::pair<std::string, RopeScalingKind>> scaling_names() {
  return {{"none", RopeScalingKind::none},
          {"linear", RopeScalingKind::linear},
          {"ntk", RopeScalingKind::ntk},
          {"dynamic", RopeScalingKind::dynamic},
          {"ntk_by_parts", RopeScalingKind::ntk_by_parts},
          {"yarn", RopeScalingKind::yarn},
          {"longrope", RopeScalingKind::longrope},
          {"llama3", RopeScalingKind::llama3}};
}

std::vector<std::string> all_scalings() {
  std::vector<std::string> names;
  for (const auto& [name, kind] : scaling_names()) {
    if (kind != RopeScalingKind::none) names.push_back(name);
  }
  return names;
}

Field<BlockOptions> on_rope(const Field<BlockOptions>& field) {
  return field.only_with("mixer", "attention").only_with("position", "rope");
}

std::vector<std::pair<std::string, PatternKind>> pattern_choices() {
  std::vector<std::pair<std::string, PatternKind>> choices;
  for (const PatternName& pattern : pattern_names())
    choices.emplace_back(pattern.name, pattern.kind);
  return choices;
}

// Of the patterns that use this key.
Field<BlockOptions> on_pattern(const Field<BlockOptions>& field) {
  std::vector<std::string> names;
  for (const PatternName& pattern : pattern_names()) {
    const auto& keys = pattern.keys;
    if (std::find(keys.begin(), keys.end(), field.key) != keys.end()) {
      names.push_back(pattern.name);
    }
  }
  return field.only_with("mixer", "attention").only_with("pattern", names);
}

Field<BlockOptions> on_scaling(const Field<BlockOptions>& field,
                               const std::vector<std::string>& kinds) {
  return on_rope(field).only_with("rope_scaling", kinds);
}

Table<BlockOptions> block_table() {
  using Options = BlockOptions;
  const std::string attention = "attention";
  const std::string mamba = "mamba1";
  const std::vector<std::string> by_parts = {"ntk_by_parts", "yarn"};
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

          field(
              "pattern", &Options::pattern,
              "which keys a query sees, of those before it in its document: all (full), near ones "
              "(window, dilated, chunked), or near and far ones (the others); `sidewinder show "
              "pattern NAME` draws it",
              pattern_choices())
              .only_with("mixer", attention),
          on_pattern(field("window", &Options::window,
                           "near tokens that a query sees, itself included; of dilated, every "
                           "dilation-th is one",
                           {.at_least = 1})
                         .required()),
          on_pattern(field("dilation", &Options::dilation,
                           "distance of one visible token to the next", {.at_least = 2})
                         .required()),
          on_pattern(field("stride", &Options::stride,
                           "tokens at distances that are a multiple of this are seen",
                           {.at_least = 2})
                         .required()),
          on_pattern(field("global_tokens", &Options::global_tokens,
                           "first tokens of a document that all later ones see, its sinks",
                           {.at_least = 0})
                         .required()),
          on_pattern(
              field("pattern_block", &Options::pattern_block,
                    "tokens per block: of chunked and fixed, the block in which a query sees "
                    "what came before; of bigbird, the unit of windows and random choices",
                    {.at_least = 1})
                  .required()),
          on_pattern(field("summary", &Options::summary,
                           "last tokens of every block that all later queries see", {.at_least = 1})
                         .required()),
          on_pattern(
              field("random_blocks", &Options::random_blocks,
                    "blocks drawn at random for every block of queries, the same for all "
                    "heads",
                    {.at_least = 1, .at_most = static_cast<double>(AttentionPattern::kMostRandom)})
                  .required()),
          on_pattern(field("pattern_seed", &Options::pattern_seed,
                           "of the random choices, with the name of the block", {.at_least = 0})),
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
                "how a query knows where keys are: rope turns both by their position; alibi lowers "
                "scores in proportion to the distance",
                {{"rope", PositionKind::rope},
                 {"alibi", PositionKind::alibi},
                 {"none", PositionKind::none}})
              .only_with("mixer", attention),
          on_rope(field(
              "rope_layout", &Options::rope_layout,
              "which numbers of a head are a pair: i and i + half (half_split), or 2i and "
              "2i + 1",
              {{"half_split", RopeLayout::half_split}, {"interleaved", RopeLayout::interleaved}})),
          on_rope(field("rope_base", &Options::rope_base,
                        "base of the rotary frequencies, before scaling", {.above = 1})),
          on_rope(field("rotary_share", &Options::rotary_share, "share of each head that is turned",
                        {.at_most = 1, .above = 0})),
          on_rope(field("rope_positions", &Options::rope_positions,
                        "what positions count: the tokens of the document (text), or those that "
                        "are still in the cache, so that a query is never further from the global "
                        "tokens than window + global_tokens - 1 (cache, StreamingLLM); cache is "
                        "for inference on texts beyond the trained context",
                        {{"text", RopePositions::text}, {"cache", RopePositions::cache}}))
              .only_with("pattern", {name_of(PatternKind::global_window).name,
                                     name_of(PatternKind::sink_window).name}),
          on_rope(field("rope_scaling", &Options::rope_scaling,
                        "how frequencies change for contexts longer than rope_original_context; "
                        "dynamic follows the length and is for inference",
                        scaling_names())),
          on_scaling(field("rope_factor", &Options::rope_factor,
                           "s, new context divided by the original one, in total", {.at_least = 1})
                         .required(),
                     all_scalings()),
          on_scaling(field("rope_original_context", &Options::rope_original_context,
                           "L, tokens of context that unscaled frequencies were trained for",
                           {.at_least = 2})
                         .required(),
                     all_scalings()),
          on_scaling(field("rope_allow_mismatch", &Options::rope_allow_mismatch,
                           "accept a factor that does not lead to the distances seen, and scaling "
                           "that changes none beyond the original context"),
                     all_scalings()),
          on_scaling(field("rope_beta_fast", &Options::rope_beta_fast,
                           "pairs that turn more often than this over the original context stay as "
                           "they are",
                           {.above = 0}),
                     by_parts),
          on_scaling(
              field("rope_beta_slow", &Options::rope_beta_slow,
                    "pairs that turn less often than this are divided by the factor", {.above = 0}),
              by_parts),
          on_scaling(field("rope_ramp", &Options::rope_ramp,
                           "between the two: linear in the index of the pair, as in released "
                           "checkpoints, or in its rotations, as in the paper",
                           {{"index", RopeRamp::index}, {"rotations", RopeRamp::rotations}}),
                     by_parts),
          on_scaling(field("rope_truncate", &Options::rope_truncate,
                           "round the ends of the ramp by index to whole pairs"),
                     by_parts),
          on_scaling(field("rope_attention_factor", &Options::rope_attention_factor,
                           "what turned queries and keys are multiplied by; 0: 0.1 · ln s + 1 for "
                           "yarn, √(1 + ln s / ln L) for longrope",
                           {.at_least = 0}),
                     {"yarn", "longrope"}),
          on_scaling(
              field("rope_mscale", &Options::rope_mscale,
                    "with rope_mscale_all_dim: the attention factor is (0.1 · mscale · ln s + "
                    "1) / (0.1 · mscale_all_dim · ln s + 1); 0: not set",
                    {.at_least = 0}),
              {"yarn"}),
          on_scaling(field("rope_mscale_all_dim", &Options::rope_mscale_all_dim,
                           "see rope_mscale; 0: not set", {.at_least = 0}),
                     {"yarn"}),
          on_scaling(field("rope_short_factors", &Options::rope_short_factors,
                           "divisors of the frequencies, one per pair, for rows of at most the "
                           "original context",
                           {.above = 0})
                         .required(),
                     {"longrope"}),
          on_scaling(field("rope_long_factors", &Options::rope_long_factors,
                           "the same for longer rows", {.above = 0})
                         .required(),
                     {"longrope"}),
          on_scaling(field("rope_low_frequency_factor", &Options::rope_low_frequency_factor,
                           "wavelengths above the original context divided by this are divided by "
                           "the factor",
                           {.above = 0}),
                     {"llama3"}),
          on_scaling(
              field("rope_high_frequency_factor", &Options::rope_high_frequency_factor,
                    "wavelengths below the original context divided by this stay as they are",
                    {.above = 0}),
              {"llama3"}),

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
           field("repeat", &Options::repeat, "how often `layers` is repeated",
                 {.at_least = 1, .at_most = 10'000}),
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
