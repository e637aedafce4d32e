#include "trainer/extension_problems.h"

#include <gtest/gtest.h>

#include <functional>

namespace sidewinder {
namespace {

using Change = std::function<void(ModelOptions&)>;

// Mamba, a window of 64, and full attention: as trained at 256 tokens.
ModelOptions trained() {
  ModelOptions model;
  model.width = 64;
  model.vocabulary = 100;
  model.layers = "mwf";
  model.repeat = 2;
  BlockOptions attention;
  attention.mixer = MixerKind::attention;
  attention.head_width = 16;
  model.blocks["f"] = attention;
  attention.pattern = PatternKind::window;
  attention.window = 64;
  model.blocks["w"] = attention;
  model.blocks["m"] = {};
  return model;
}

void scale(BlockOptions& block, RopeScalingKind kind, double factor, int64_t original) {
  block.rope_scaling = kind;
  block.rope_factor = factor;
  block.rope_original_context = original;
}

// A line per problem: the key, what, and the advice.
std::string problems(
    const Change& change, int64_t context = 1024,
    const Change& change_before = [](ModelOptions&) {}) {
  ModelOptions before = trained();
  change_before(before);
  ModelOptions after = before;
  change(after);
  std::string text;
  for (const ContextProblem& problem : extension_problems({before, 256}, {after, context})) {
    text += problem.keys.front() + ": " + problem.what + "\n    " + problem.advice + "\n";
  }
  return text;
}

TEST(ExtensionProblems, ASoundExtensionHasNone) {
  EXPECT_EQ(problems([](ModelOptions& model) {
              scale(model.blocks["f"], RopeScalingKind::yarn, 4, 256);
            }),
            "");
  // A window that grows by four, in rows that stay.
  EXPECT_EQ(problems(
                [](ModelOptions& model) {
                  model.blocks["w"].window = 256;
                  scale(model.blocks["w"], RopeScalingKind::yarn, 4, 64);
                },
                256),
            "");
  // Letters may change, blocks not.
  EXPECT_EQ(problems([](ModelOptions& model) {
              model.layers = "mwg";
              model.blocks["g"] = model.blocks["f"];
              model.blocks.erase("f");
              scale(model.blocks["g"], RopeScalingKind::ntk, 8, 256);
            }),
            "");
  EXPECT_EQ(problems([](ModelOptions& model) {
              scale(model.blocks["f"], RopeScalingKind::llama3, 8, 256);
            }),
            "");
  EXPECT_EQ(problems([](ModelOptions&) {}), "");  // longer rows alone
  // As YaRN to 128 K was trained: on rows shorter than what is aimed at.
  EXPECT_EQ(problems([](ModelOptions& model) {
              scale(model.blocks["f"], RopeScalingKind::yarn, 16, 256);
              model.max_context = 4096;
            }),
            "");
}

TEST(ExtensionProblems, ScalingThatNoQueryCanSee) {
  EXPECT_EQ(
      problems([](ModelOptions& model) { scale(model.blocks["w"], RopeScalingKind::yarn, 4, 64); }),
      "model.block.w.rope_scaling: cannot help: rope_original_context is 64, and with window "
      "= 64 no query sees further\n"
      "    remove it, raise window, or set rope_allow_mismatch = true\n");
  EXPECT_EQ(problems([](ModelOptions& model) {
              scale(model.blocks["w"], RopeScalingKind::yarn, 4, 64);
              model.blocks["w"].rope_allow_mismatch = true;
            }),
            "");
}

TEST(ExtensionProblems, EveryPatternIsTakenForWhatItReaches) {
  const auto scaled = [](PatternKind kind) {
    return [kind](ModelOptions& model) {
      BlockOptions& block = model.blocks["f"];
      block.pattern = kind;
      block.window = 16;
      block.dilation = 4;  // sees distances 0, 4 … 60
      block.pattern_block = 64;
      block.global_tokens = 4;  // in sight from everywhere
      scale(block, RopeScalingKind::yarn, 4, 256);
    };
  };
  const auto before = [](PatternKind kind) {
    return [kind](ModelOptions& model) { model.blocks["f"].pattern = kind; };
  };
  EXPECT_EQ(
      problems(scaled(PatternKind::dilated)),
      "model.block.f.rope_scaling: cannot help: rope_original_context is 256, and with window "
      "= 16 no query sees further\n    remove it, raise window, or set rope_allow_mismatch = "
      "true\n");
  EXPECT_EQ(problems(scaled(PatternKind::chunked)),
            "model.block.f.rope_scaling: cannot help: rope_original_context is 256, and with "
            "pattern_block = 64 no query sees further\n    remove it, raise pattern_block, or set "
            "rope_allow_mismatch = true\n");
  EXPECT_EQ(problems(scaled(PatternKind::sink_window), 1024, before(PatternKind::full)), "");
}

TEST(ExtensionProblems, FactorsThatDoNotMatchTheLengths) {
  EXPECT_EQ(
      problems(
          [](ModelOptions& model) { scale(model.blocks["f"], RopeScalingKind::yarn, 3, 256); }),
      "model.block.f.rope_factor: 3 · rope_original_context, 256, is 768 and not the 1024 tokens "
      "that queries see with train.context = 1024\n    use 4, or set rope_allow_mismatch = true\n");
  EXPECT_EQ(
      problems([](ModelOptions& model) { scale(model.blocks["f"], RopeScalingKind::ntk, 3, 256); }),
      "model.block.f.rope_factor: 3 · rope_original_context, 256, is 768 and not the 1024 tokens "
      "that queries see with train.context = 1024\n    use at least 4, or set rope_allow_mismatch "
      "= true\n");
  EXPECT_EQ(problems([](ModelOptions& model) {
              scale(model.blocks["f"], RopeScalingKind::yarn, 2, 512);
            }),
            "model.block.f.rope_original_context: 512, but queries of the checkpoint saw 256 "
            "tokens\n    use 256, or set rope_allow_mismatch = true\n");
}

TEST(ExtensionProblems, CompoundingOverAScaledCheckpoint) {
  const Change by_four = [](ModelOptions& model) {
    scale(model.blocks["f"], RopeScalingKind::yarn, 4, 64);
  };
  EXPECT_EQ(
      problems([](ModelOptions& model) { scale(model.blocks["f"], RopeScalingKind::yarn, 16, 64); },
               1024, by_four),
      "");
  EXPECT_EQ(
      problems([](ModelOptions& model) { scale(model.blocks["f"], RopeScalingKind::yarn, 4, 256); },
               1024, by_four),
      "model.block.f.rope_original_context: 256, but the checkpoint is scaled by 4 from 64 "
      "already, and scaling what is scaled gives other angles\n"
      "    use 64 and the total factor, 16\n");
  EXPECT_EQ(problems(
                [](ModelOptions& model) {
                  scale(model.blocks["f"], RopeScalingKind::yarn, 16, 64);
                  model.blocks["f"].rope_base = 4e4;
                },
                1024, by_four),
            "model.block.f.rope_base: 40000, but 10000 in the checkpoint; scaling starts from the "
            "original base\n    use 10000\n");
  EXPECT_EQ(
      problems([](ModelOptions& model) { scale(model.blocks["f"], RopeScalingKind::none, 1, 0); },
               1024, by_four),
      "model.block.f.rope_scaling: \"none\", but the checkpoint's positions are scaled by 4, "
      "and its weights do not know the unscaled ones\n"
      "    keep the checkpoint's scaling, with the total factor\n");
  EXPECT_EQ(problems(
                [](ModelOptions& model) {
                  model.blocks["f"].rope_factor = 2;
                  model.blocks["f"].rope_allow_mismatch = true;
                },
                1024, by_four),
            "model.block.f.rope_factor: 2 is less than the checkpoint's, 4\n"
            "    give the total factor, from the original context\n");
}

TEST(ExtensionProblems, BlocksWithoutPositionsListedForScaling) {
  const Change no_positions = [](ModelOptions& model) {
    model.blocks["f"].position = PositionKind::none;
  };
  EXPECT_EQ(
      problems([](ModelOptions& model) { scale(model.blocks["f"], RopeScalingKind::yarn, 4, 256); },
               1024, no_positions),
      "model.block.f.rope_scaling: there are no rotary positions to scale: position is "
      "\"none\"\n    leave rope_scaling out here; without positions no scaling is needed\n");
  EXPECT_EQ(problems(
                [](ModelOptions& model) {
                  model.blocks["f"].position = PositionKind::rope;
                  scale(model.blocks["f"], RopeScalingKind::yarn, 4, 256);
                },
                1024, no_positions),
            "model.block.f.rope_scaling: the checkpoint's block has no positions that could be "
            "scaled\n    set position = \"none\" and leave rope_scaling out\n");
}

TEST(ExtensionProblems, OtherBlocksThanTheCheckpoints) {
  EXPECT_EQ(problems([](ModelOptions& model) { model.layers = "mw"; }),
            "model.layers: has 4 blocks, but the checkpoint 6\n"
            "    use the same blocks, in the same order\n");
  EXPECT_EQ(problems([](ModelOptions& model) { model.layers = "wmf"; }),
            "model.block.w.mixer: is not the mixer that the checkpoint has here\n"
            "    use the same blocks, in the same order\n"
            "model.block.m.mixer: is not the mixer that the checkpoint has here\n"
            "    use the same blocks, in the same order\n");
  EXPECT_EQ(problems([](ModelOptions& model) { model.blocks["f"].position = PositionKind::alibi; }),
            "model.block.f.position: \"alibi\", but \"rope\" in the checkpoint, whose weights know "
            "no other\n    use position = \"rope\"\n");
  EXPECT_EQ(problems([](ModelOptions& model) {
              model.blocks["f"].rotary_share = 0.5;
              model.blocks["f"].rope_layout = RopeLayout::interleaved;
            }),
            "model.block.f.rotary_share: turns 0.5 of heads 16 wide, but the checkpoint 1 of heads "
            "16 wide\n    use the checkpoint's\n"
            "model.block.f.rope_layout: is not the checkpoint's, which would turn other pairs\n"
            "    use the checkpoint's layout\n");
}

TEST(ExtensionProblems, NothingThatGrows) {
  EXPECT_EQ(problems([](ModelOptions&) {}, 256),
            "train.context: 256 is not above the checkpoint's context, 256, and no window grows: "
            "nothing would be extended\n    raise train.context or a window\n");
}

}  // namespace
}  // namespace sidewinder
