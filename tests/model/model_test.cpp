#include "model/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>

#include "kernels/base/thread_pool.h"
#include "kernels/tensor/allocator.h"
#include "tests/support/message_of.h"
#include "tests/support/models.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

using testing::message_of;
using testing::random_tokens;

TEST(HybridModel, TwentyMillionRecipeHasTheParametersOfItsFormula) {
  ModelOptions options;
  options.width = 384;
  options.vocabulary = 16384;
  options.layers = "mw";
  options.repeat = 4;
  BlockOptions window;
  window.mixer = MixerKind::attention;
  window.pattern = PatternKind::window;
  window.window = 512;
  options.blocks = {{"m", {}}, {"w", window}};
  HybridModel model(options, Initializer{.seed = 0});
  // 26.25 d² matrix elements per repeat and V·d for the tied head; FLOPs are six times that, and
  // 12·d per visible pair.
  const double per_token = model.training_flops(SequenceLayout::unpacked(1, 1), 1);
  EXPECT_NEAR(per_token, 6 * (4 * 26.25 * 384 * 384 + 16384 * 384 + 4 * 2 * 384), 1e6);
  EXPECT_NEAR(static_cast<double>(model.num_parameters()), 21.9e6, 0.15e6);
}

TEST(HybridModel, RecomputeGivesTheSameBits) {
  HybridModel model = testing::tiny_model("mwf", Dtype::f32);
  const std::vector<std::vector<int32_t>> documents = {random_tokens(70, 37, 1),
                                                       random_tokens(20, 37, 2)};
  const auto plain = testing::packed_loss(model, Dtype::f32, documents);
  const auto again = testing::packed_loss(model, Dtype::f32, documents, /*recompute=*/true);
  EXPECT_EQ(plain.loss, again.loss);
  for (const auto& [name, gradient] : plain.gradients) {
    EXPECT_TRUE(testing::same_bits(gradient, again.gradients.at(name))) << name;
  }
}

TEST(HybridModel, BitsDoNotDependOnTheNumberOfThreads) {
  const std::vector<std::vector<int32_t>> documents = {random_tokens(150, 37, 1),
                                                       random_tokens(33, 37, 2)};
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    HybridModel model = testing::tiny_model("mwmf", Dtype::f32);
    const int before = ThreadPool::global().num_threads();
    ThreadPool::global().resize(1);
    const auto one = testing::packed_loss(model, dtype, documents);
    for (const int threads : {2, 3}) {
      ThreadPool::global().resize(threads);
      const auto several = testing::packed_loss(model, dtype, documents);
      EXPECT_EQ(one.loss, several.loss);
      for (const auto& [name, gradient] : one.gradients) {
        EXPECT_TRUE(testing::same_bits(gradient, several.gradients.at(name))) << name;
      }
    }
    ThreadPool::global().resize(before);
  }
}

TEST(HybridModel, EveryParameterIsReadyOnceAfterItsLastUse) {
  for (const bool recompute : {false, true}) {
    HybridModel model = testing::tiny_model("mwf", Dtype::f32, /*tied=*/true);
    std::map<std::string, int> ready;
    std::map<std::string, Tensor> at_ready;
    Tape tape;
    tape.on_ready = [&](Parameter& parameter) {
      ++ready[parameter.name()];
      at_ready[parameter.name()] = parameter.gradient().clone();
    };
    const SequenceLayout layout = SequenceLayout::unpacked(1, 24);
    const Tensor tokens = Tensor::from<int32_t>({24}, random_tokens(24, 37, 5));
    const LossOut out = model.loss(&tape, Dtype::f32, {layout, layout}, tokens, tokens,
                                   {.scale = 1.0, .z_loss = 0, .recompute = recompute});
    tape.backward(out.loss);
    model.visit([&](Parameter& parameter) {
      EXPECT_EQ(ready[parameter.name()], 1) << parameter.name();
      EXPECT_TRUE(testing::same_bits(at_ready[parameter.name()], parameter.gradient()))
          << parameter.name();
    });
  }
}

TEST(HybridModel, GenerationEqualsTheTrainingForward) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    HybridModel model = testing::tiny_model("mwmf", dtype);
    const std::vector<int32_t> tokens = random_tokens(90, 37, 9);
    const SequenceLayout layout = SequenceLayout::unpacked(1, 90);
    const Tensor whole = model.logits(dtype, {layout, layout}, Tensor::from<int32_t>({90}, tokens));
    GenerationState state;
    // A prompt of 40, then token by token, then a piece of 10.
    const double bound = dtype == Dtype::f64 ? 1e-11 : 2e-5;
    Tensor logits = model.next_logits(dtype, {tokens.begin(), tokens.begin() + 40}, state);
    EXPECT_LT(testing::relative_error(logits, whole.slice_rows(39, 40).reshape({37})), bound);
    for (int64_t t = 40; t < 80; ++t) {
      logits = model.next_logits(dtype, {tokens[static_cast<size_t>(t)]}, state);
      ASSERT_LT(testing::relative_error(logits, whole.slice_rows(t, t + 1).reshape({37})), bound)
          << "token " << t;
    }
    logits = model.next_logits(dtype, {tokens.begin() + 80, tokens.end()}, state);
    EXPECT_LT(testing::relative_error(logits, whole.slice_rows(89, 90).reshape({37})), bound);
  }
}

// Positions of every kind, in a windowed and a full block of each model.
std::map<std::string, BlockOptions> position_kinds() {
  const auto with = [](const std::function<void(BlockOptions&)>& change) {
    BlockOptions block;
    change(block);
    return block;
  };
  const auto scaled = [&](RopeScalingKind kind) {
    return with([kind](BlockOptions& block) {
      block.rope_scaling = kind;
      block.rope_factor = 4;
      block.rope_original_context = 64;
      block.rope_beta_fast = 4;  // 64 tokens are too few for 32 rotations of most pairs
      block.rope_short_factors = {1, 1, 1.5, 2};
      block.rope_long_factors = {1, 2, 3, 4};
    });
  };
  return {
      {"none", with([](BlockOptions& block) { block.position = PositionKind::none; })},
      {"alibi", with([](BlockOptions& block) { block.position = PositionKind::alibi; })},
      {"rope", BlockOptions{}},
      {"partial", with([](BlockOptions& block) { block.rotary_share = 0.5; })},
      {"interleaved",
       with([](BlockOptions& block) { block.rope_layout = RopeLayout::interleaved; })},
      {"linear", scaled(RopeScalingKind::linear)},
      {"ntk", scaled(RopeScalingKind::ntk)},
      {"ntk_by_parts", scaled(RopeScalingKind::ntk_by_parts)},
      {"yarn", scaled(RopeScalingKind::yarn)},
      {"llama3", scaled(RopeScalingKind::llama3)},
      {"dynamic", scaled(RopeScalingKind::dynamic)},
      {"longrope", scaled(RopeScalingKind::longrope)},
  };
}

void set_position(BlockOptions& block, const BlockOptions& from) {
  BlockOptions changed = from;
  changed.mixer = block.mixer;
  changed.pattern = block.pattern;
  changed.window = block.window;
  changed.heads = block.heads;
  changed.key_value_heads = block.key_value_heads;
  changed.head_width = block.head_width;
  changed.qk_norm = block.qk_norm;
  changed.feed_forward = block.feed_forward;
  block = changed;
}

HybridModel model_with(const std::string& layers, const BlockOptions& position, Dtype dtype) {
  ModelOptions options = testing::tiny_options(layers);
  for (auto& [letter, block] : options.blocks) {
    if (block.mixer == MixerKind::attention) set_position(block, position);
  }
  return HybridModel(options, Initializer{.seed = 7, .dtype = dtype});
}

Tensor all_logits(HybridModel& model, Dtype dtype, const std::vector<int32_t>& tokens) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  const SequenceLayout layout = SequenceLayout::unpacked(1, count);
  return model.logits(dtype, {layout, layout}, Tensor::from<int32_t>({count}, tokens));
}

// The error of next_logits after `prompt` tokens at once and the rest one by one, against the
// whole.
double worst_error_of_generation(HybridModel& model, Dtype dtype,
                                 const std::vector<int32_t>& tokens, size_t prompt) {
  const Tensor whole = all_logits(model, dtype, tokens);
  const int64_t vocabulary = whole.size(1);
  GenerationState state;
  double worst = 0;
  for (size_t end = prompt; end <= tokens.size(); ++end) {
    const size_t begin = end == prompt ? 0 : end - 1;
    const auto at = [&](size_t i) { return tokens.begin() + static_cast<int64_t>(i); };
    const Tensor logits = model.next_logits(dtype, {at(begin), at(end)}, state);
    const int64_t row = static_cast<int64_t>(end) - 1;
    worst = std::max(worst, testing::relative_error(
                                logits, whole.slice_rows(row, row + 1).reshape({vocabulary})));
  }
  return worst;
}

TEST(Positions, GenerationEqualsTheTrainingForward) {
  for (const auto& [name, position] : position_kinds()) {
    SCOPED_TRACE(name);
    for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
      HybridModel model = model_with("mwf", position, dtype);
      // Kinds that depend on the length agree as long as it is of one class.
      const bool fixed = !rope_depends_on_length(model.block_context('f').rope);
      const std::vector<int32_t> tokens = random_tokens(fixed ? 90 : 64, 37, 9);
      EXPECT_LT(worst_error_of_generation(model, dtype, tokens, 40),
                dtype == Dtype::f64 ? 1e-11 : 2e-5);
    }
  }
}

// With one block of attention keys do not depend on frequencies, so generation past the original
// context equals a forward pass over just what has been read, token by token.
TEST(Positions, CachedKeysFollowFrequenciesThatChangeWithTheLength) {
  for (const std::string kind : {"dynamic", "longrope"}) {
    for (const std::string layers : {"mf", "mw"}) {
      SCOPED_TRACE(::testing::Message() << kind << " " << layers);
      HybridModel model = model_with(layers, position_kinds().at(kind), Dtype::f64);
      const std::vector<int32_t> tokens = random_tokens(80, 37, 9);
      GenerationState state;
      for (int64_t t = 0; t < 80; ++t) {
        const Tensor logits =
            model.next_logits(Dtype::f64, {tokens[static_cast<size_t>(t)]}, state);
        const Tensor whole =
            all_logits(model, Dtype::f64, {tokens.begin(), tokens.begin() + t + 1});
        ASSERT_LT(testing::relative_error(logits, whole.slice_rows(t, t + 1).reshape({37})), 1e-11)
            << "token " << t;
      }
    }
  }
}

TEST(Positions, EveryKindIsAModelOfItsOwn) {
  std::map<double, std::string> losses;
  const std::vector<std::vector<int32_t>> documents = {random_tokens(80, 37, 3)};
  for (const auto& [name, position] : position_kinds()) {
    HybridModel model = model_with("mf", position, Dtype::f64);
    const double loss = testing::packed_loss(model, Dtype::f64, documents).loss;
    EXPECT_TRUE(losses.emplace(loss, name).second) << name << " equals " << losses.at(loss);
  }
}

TEST(Positions, PackedDocumentsKeepTheirPositions) {
  const std::vector<std::vector<int32_t>> documents = {
      random_tokens(30, 37, 1), random_tokens(1, 37, 2), random_tokens(25, 37, 3)};
  for (const auto& [name, position] : position_kinds()) {
    SCOPED_TRACE(name);
    HybridModel model = model_with("mwf", position, Dtype::f64);
    const auto packed = testing::packed_loss(model, Dtype::f64, documents);
    const auto unpacked = testing::unpacked_loss(model, Dtype::f64, documents);
    EXPECT_NEAR(packed.loss, unpacked.loss, 1e-11 * packed.loss);
    for (const auto& [parameter, gradient] : packed.gradients) {
      EXPECT_LT(testing::relative_error(gradient, unpacked.gradients.at(parameter)), 1e-10)
          << parameter;
    }
  }
}

// Scores depend on distances alone, so documents that do not see each other may count on through
// their row.
TEST(Positions18, RestartingPositionsChangesNothingUnderADocumentMask) {
  const std::vector<int32_t> tokens = random_tokens(40, 37, 4);
  const std::vector<int32_t> starts = {0, 13, 14, 29};
  for (const char* const kind : {"rope", "alibi", "none", "yarn", "interleaved", "ntk"}) {
    HybridModel model = model_with("mwf", position_kinds().at(kind), Dtype::f64);
    const auto logits_from = [&](const std::vector<int32_t>& first_positions) {
      const SequenceLayout layout = SequenceLayout::packed(1, 40, starts, first_positions);
      return model.logits(Dtype::f64, {layout, layout}, Tensor::from<int32_t>({40}, tokens));
    };
    EXPECT_LT(testing::relative_error(logits_from(starts), logits_from({0, 0, 0, 0})), 1e-11)
        << kind;
  }
}

// Rotary scores depend on distances alone, so a windowed block does not know where its row begins.
TEST(Positions8, AWindowedBlockDoesNotSeeWherePositionsStart) {
  const std::vector<int32_t> tokens = random_tokens(40, 37, 4);
  for (const char* const kind : {"rope", "alibi", "yarn", "interleaved"}) {
    // Angles are formed in f64 for both types, so that f32 is not worse far out.
    for (const auto& [dtype, bound] : {std::pair{Dtype::f64, 1e-9}, {Dtype::f32, 1e-5}}) {
      HybridModel model = model_with("w", position_kinds().at(kind), dtype);
      const auto logits_from = [&, type = dtype](int32_t first_position) {
        const std::vector<int32_t> starts = {0};
        const std::vector<int32_t> positions = {first_position};
        const SequenceLayout layout = SequenceLayout::packed(1, 40, starts, positions);
        return model.logits(type, {layout, layout}, Tensor::from<int32_t>({40}, tokens));
      };
      EXPECT_LT(testing::relative_error(logits_from(100000), logits_from(0)), bound)
          << kind << " " << name_of(dtype);
    }
  }
}

TEST(HybridModel, CachesOfWindowedBlocksStayBounded) {
  HybridModel model = testing::tiny_model("mw", Dtype::f32);
  GenerationState state;
  for (int i = 0; i < 600; ++i) model.next_logits(Dtype::f32, {i % 37}, state);
  EXPECT_LE(state.blocks[1].keys.size(0), 64);
  EXPECT_LE(state.blocks[1].end_key - state.blocks[1].first_key, 5);
}

// A block of every kind of pattern, small enough that 90 tokens reach every part of its rule.
std::map<std::string, BlockOptions> pattern_blocks() {
  std::map<std::string, BlockOptions> blocks;
  for (const PatternName& pattern : pattern_names()) {
    BlockOptions block = testing::tiny_options("w").blocks.at("w");
    block.pattern = pattern.kind;
    block.window = pattern.kind == PatternKind::full ? 0 : 8;
    block.dilation = 3;
    block.stride = 7;
    block.global_tokens = 3;
    block.pattern_block = 4;
    block.summary = 1;
    block.random_blocks = 2;
    blocks[pattern.name] = block;
  }
  return blocks;
}

TEST(HybridModel, GenerationEqualsTheTrainingForwardForEveryPattern) {
  for (const auto& [name, block] : pattern_blocks()) {
    for (const PositionKind position : {PositionKind::rope, PositionKind::alibi}) {
      SCOPED_TRACE(name);
      ModelOptions options = testing::tiny_options("ww");
      options.blocks["w"] = block;
      options.blocks["w"].position = position;
      HybridModel model(options, Initializer{.seed = 7, .dtype = Dtype::f64});
      const std::vector<int32_t> tokens = random_tokens(90, 37, 9);
      const SequenceLayout layout = SequenceLayout::unpacked(1, 90);
      const Tensor whole =
          model.logits(Dtype::f64, {layout, layout}, Tensor::from<int32_t>({90}, tokens));
      GenerationState state;
      model.next_logits(Dtype::f64, {tokens.begin(), tokens.begin() + 40}, state);
      for (int64_t t = 40; t < 80; ++t) {
        const Tensor logits =
            model.next_logits(Dtype::f64, {tokens[static_cast<size_t>(t)]}, state);
        ASSERT_LT(testing::relative_error(logits, whole.slice_rows(t, t + 1).reshape({37})), 1e-11)
            << "token " << t;
      }
      const Tensor logits =
          model.next_logits(Dtype::f64, {tokens.begin() + 80, tokens.end()}, state);
      EXPECT_LT(testing::relative_error(logits, whole.slice_rows(89, 90).reshape({37})), 1e-11);
    }
  }
}

HybridModel streaming_model(const std::string& layers, RopePositions positions, Dtype dtype) {
  ModelOptions options = testing::tiny_options(layers);
  BlockOptions& block = options.blocks.at("w");
  block.pattern = PatternKind::sink_window;
  block.window = 8;
  block.global_tokens = 3;
  block.rope_positions = positions;
  return HybridModel(options, Initializer{.seed = 7, .dtype = dtype});
}

// Keys of a first block depend on their tokens alone. So its answer after any text is that of full
// attention on a text of just the tokens that the cache has kept: the first three and the last
// eight.
TEST(CachePositions, DecodingEqualsRecomputingEachStepFromTheExplicitCache) {
  HybridModel model = streaming_model("w", RopePositions::cache, Dtype::f64);
  ModelOptions full = testing::tiny_options("w");
  full.blocks.at("w").pattern = PatternKind::full;
  full.blocks.at("w").window = 0;
  HybridModel oracle(full, Initializer{.seed = 7, .dtype = Dtype::f64});
  HybridModel text = streaming_model("w", RopePositions::text, Dtype::f64);
  const std::vector<int32_t> tokens = random_tokens(200, 37, 9);
  GenerationState state;
  GenerationState text_state;
  std::vector<int32_t> cache;
  for (size_t t = 0; t < tokens.size(); ++t) {
    cache.push_back(tokens[t]);
    if (cache.size() > 3 + 8) cache.erase(cache.begin() + 3);
    const Tensor kept = all_logits(oracle, Dtype::f64, cache);
    const Tensor expected = kept.slice_rows(kept.size(0) - 1, kept.size(0)).reshape({kept.size(1)});
    const Tensor actual = model.next_logits(Dtype::f64, {tokens[t]}, state);
    ASSERT_LT(testing::relative_error(actual, expected), 1e-12) << t;
    // Positions of the text are others from the first forgotten token on.
    const double other =
        testing::relative_error(text.next_logits(Dtype::f64, {tokens[t]}, text_state), expected);
    if (t < 3 + 8) {
      ASSERT_LT(other, 1e-12) << t;
    } else {
      ASSERT_GT(other, 1e-5) << t;
    }
    ASSERT_LE(state.blocks[0].end_key - state.blocks[0].first_key, 3 + 8);
  }
}

TEST(CachePositions, TheWayOfReadingChangesNothing) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    HybridModel model = streaming_model("wmw", RopePositions::cache, dtype);
    const double bound = dtype == Dtype::f64 ? 1e-11 : 2e-5;
    const std::vector<int32_t> tokens = random_tokens(90, 37, 9);
    for (const size_t prompt : {1, 5, 11, 12, 60}) {
      EXPECT_LT(worst_error_of_generation(model, dtype, tokens, prompt), bound) << prompt;
    }
    // In pieces, and in a row with another document.
    const Tensor whole = all_logits(model, dtype, tokens);
    GenerationState state;
    for (const auto& [begin, end] : {std::pair{0, 7}, {7, 40}, {40, 41}, {41, 90}}) {
      const Tensor logits =
          model.next_logits(dtype, {tokens.begin() + begin, tokens.begin() + end}, state);
      EXPECT_LT(testing::relative_error(logits, whole.slice_rows(end - 1, end).reshape({37})),
                bound);
    }
    std::vector<int32_t> row = random_tokens(25, 37, 1);
    row.insert(row.end(), tokens.begin(), tokens.end());
    const std::vector<int32_t> starts = {0, 25};
    const SequenceLayout packed = SequenceLayout::packed(1, 115, starts);
    const Tensor both = model.logits(dtype, {packed, packed}, Tensor::from<int32_t>({115}, row));
    EXPECT_LT(testing::relative_error(both.slice_rows(25, 115), whole), bound);
  }
}

TEST(CachePositions, AreNotForTraining) {
  HybridModel model = streaming_model("mw", RopePositions::cache, Dtype::f32);
  EXPECT_EQ(testing::message_of(
                [&] { testing::packed_loss(model, Dtype::f32, {random_tokens(20, 37, 1)}); }),
            "blocks.1.mixer: rope_positions = \"cache\" is for inference; train with \"text\"");
}

TEST(HybridModel, CachesKeepWhatMayStillBeSeen) {
  // Keys that 600 tokens leave in the cache, the newest included.
  const std::map<std::string, int64_t> kept = {
      {"full", 600},    {"window", 8},         {"dilated", 22},
      {"strided", 600}, {"global_window", 11}, {"sink_window", 11},
      {"bigbird", 600}, {"fixed", 600},        {"chunked", 4}};
  for (const auto& [name, block] : pattern_blocks()) {
    ModelOptions options = testing::tiny_options("w");
    options.blocks["w"] = block;
    HybridModel model(options, Initializer{.seed = 7, .dtype = Dtype::f32});
    GenerationState state;
    for (int i = 0; i < 600; ++i) model.next_logits(Dtype::f32, {i % 37}, state);
    EXPECT_EQ(state.blocks[0].end_key - state.blocks[0].first_key, kept.at(name)) << name;
  }
}

TEST(HybridModel, Bf16StaysNearF32) {
  HybridModel model = testing::tiny_model("mwmf", Dtype::f32);
  const std::vector<std::vector<int32_t>> documents = {random_tokens(100, 37, 1)};
  const auto exact = testing::packed_loss(model, Dtype::f32, documents);
  const auto rounded = testing::packed_loss(model, Dtype::bf16, documents);
  EXPECT_NEAR(rounded.loss, exact.loss, 5e-3 * exact.loss);
  for (const auto& [name, gradient] : exact.gradients) {
    EXPECT_LT(testing::relative_error(rounded.gradients.at(name), gradient), 0.05) << name;
  }
}

TEST(HybridModel, MemoryOfAStepDependsOnTokensNotOnRowLength) {
  HybridModel model = testing::tiny_model("mwmw", Dtype::f32);
  const auto peak = [&](int64_t rows, int64_t row_length) {
    const SequenceLayout layout = SequenceLayout::unpacked(rows, row_length);
    const int64_t tokens = rows * row_length;
    const Tensor ids = Tensor::from<int32_t>({tokens}, random_tokens(tokens, 37, 1));
    model.visit([](Parameter& parameter) { parameter.zero_gradient(); });
    allocator_of({}).reset_peak();
    Tape tape;
    const LossOut out = model.loss(&tape, Dtype::f32, {layout, layout}, ids, ids, {.scale = 1.0});
    tape.backward(out.loss);
    return static_cast<double>(allocator_of({}).statistics().bytes_peak);
  };
  peak(1, 4096);  // packs weights and allocates gradients
  const double long_rows = peak(1, 4096);
  EXPECT_NEAR(peak(16, 256) / long_rows, 1.0, 0.05);
  // One row: at most linear in its length.
  EXPECT_LE(long_rows / peak(1, 1024), 4.0);
}

TEST(HybridModel, ContextOfALetterCanChangeBetweenSteps) {
  HybridModel model = testing::tiny_model("mwwf", Dtype::f64);
  ModelOptions changed = testing::tiny_options("mwwf");
  changed.blocks["w"].window = 9;
  changed.blocks["w"].rope_scaling = RopeScalingKind::yarn;
  changed.blocks["w"].rope_factor = 3;
  changed.blocks["w"].rope_original_context = 40;
  HybridModel expected(changed, Initializer{.seed = 7, .dtype = Dtype::f64});

  const std::vector<std::vector<int32_t>> documents = {random_tokens(60, 37, 1)};
  const double before = testing::packed_loss(model, Dtype::f64, documents).loss;
  const BlockContext old = model.block_context('w');
  EXPECT_EQ(old.window, 5);
  BlockContext context = old;
  context.window = 9;
  context.rope.scaling.kind = RopeScalingKind::yarn;
  context.rope.scaling.factor = 3;
  context.rope.scaling.original_context = 40;
  model.set_block_context('w', context);
  EXPECT_EQ(model.block_context('f').window, 0);
  EXPECT_EQ(model.block_context('w').window, 9);
  const double after = testing::packed_loss(model, Dtype::f64, documents).loss;
  EXPECT_EQ(after, testing::packed_loss(expected, Dtype::f64, documents).loss);
  EXPECT_NE(after, before);
  const SequenceLayout layout = SequenceLayout::unpacked(1, 60);
  EXPECT_EQ(model.training_flops(layout, 60), expected.training_flops(layout, 60));
  model.set_block_context('w', old);
  EXPECT_EQ(testing::packed_loss(model, Dtype::f64, documents).loss, before);
}

TEST(HybridModel, ContextOfALetterIsChecked) {
  HybridModel model = testing::tiny_model("mw", Dtype::f32);
  EXPECT_EQ(message_of([&] { model.block_context('x'); }),
            "no block of the model has the letter \"x\"; model.layers is \"mw\"");
  EXPECT_EQ(message_of([&] { model.block_context('m'); }),
            "block \"m\" has no attention, so it has no window and no positions; name a block with "
            "mixer = \"attention\"");
  BlockContext context = model.block_context('w');
  context.window = -1;
  EXPECT_EQ(message_of([&] { model.set_block_context('w', context); }),
            "window -1 is negative; use the number of visible keys, or 0 for all");
  EXPECT_EQ(message_of([&] { model.set_block_context('w', {.window = 3}); }),
            "rotary options are for heads 64 wide but the heads are 8 wide; start from the block's "
            "own context");
  context = model.block_context('w');
  context.rope.scaling.kind = RopeScalingKind::linear;
  context.rope.scaling.factor = 0.5;
  EXPECT_EQ(message_of([&] { model.set_block_context('w', context); }),
            "rope: factor 0.5 would shrink the context; it must be at least 1");
}

TEST(HybridModel, UnknownLayerLetterNamesTheMissingTable) {
  ModelOptions options = testing::tiny_options("mw");
  options.layers = "mx";
  try {
    HybridModel model(options, Initializer{});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    EXPECT_STREQ(error.what(),
                 "model.layers names block \"x\", which has no table; add "
                 "[model.block.x] with its mixer");
  }
}

}  // namespace
}  // namespace sidewinder
