#include "tools/assemble.h"

#include <gtest/gtest.h>

#include "kernels/ops/rope.h"
#include "tests/support/models.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

Recipe yarn_recipe(double factor) {
  Recipe recipe;
  recipe.model = testing::tiny_options("mf");
  BlockOptions& block = recipe.model.blocks.at("f");
  block.rope_scaling = RopeScalingKind::yarn;
  block.rope_original_context = 64;
  block.rope_beta_fast = 4;
  block.rope_factor = factor;
  recipe.run.seed = 5;
  return recipe;
}

// What positions do is the recipe's: nothing of the scaling that weights were trained with stays.
TEST(LoadWeights, ScalingOverAScaledCheckpointIsThatFromTheStart) {
  const auto of_checkpoint = make_model(yarn_recipe(16));
  CheckpointContent content;
  of_checkpoint->visit([&](Parameter& parameter) {
    content.tensors.push_back({"model/" + parameter.name(), parameter.value()});
  });
  Recipe longer = yarn_recipe(32);
  longer.run.seed = 6;  // other weights, until they are loaded
  const auto loaded = make_model(longer);
  load_weights(*loaded, content, "checkpoint");
  const auto from_scratch = make_model(yarn_recipe(32));  // the weights of the checkpoint

  const std::vector<int32_t> tokens = testing::random_tokens(300, 37, 9);
  const SequenceLayout layout = SequenceLayout::unpacked(1, 300);
  const auto logits = [&](HybridModel& model) {
    return model.logits(Dtype::f32, {layout, layout}, Tensor::from<int32_t>({300}, tokens));
  };
  EXPECT_TRUE(testing::same_bits(logits(*loaded), logits(*from_scratch)));
  EXPECT_FALSE(testing::same_bits(logits(*loaded), logits(*of_checkpoint)));
  EXPECT_EQ(loaded->block_context('f').rope, rope_options(longer.model.blocks.at("f")));
  const RopeTable table = ops::rope_table(loaded->block_context('f').rope, 300, Dtype::f64);
  const RopeTable expected =
      ops::rope_table(from_scratch->block_context('f').rope, 300, Dtype::f64);
  EXPECT_TRUE(testing::same_bits(table.cosine, expected.cosine));
  EXPECT_TRUE(testing::same_bits(table.sine, expected.sine));
}

}  // namespace
}  // namespace sidewinder
