// Every recipe in the tree loads, and those that are to be compared are equally large.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "recipes/recipe.h"

namespace sidewinder {
namespace {

const std::string kRecipes = std::string(SIDEWINDER_SOURCE_DIR) + "/recipes/";

std::vector<std::string> shipped_recipes() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kRecipes)) {
    if (entry.path().extension() == ".toml") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

int64_t mixer_parameters(const BlockOptions& block, int64_t width) {
  if (block.mixer == MixerKind::attention) {
    const int64_t heads = block.heads > 0 ? block.heads : width / block.head_width;
    const int64_t groups = block.key_value_heads > 0 ? block.key_value_heads : heads;
    return 2 * width * (heads + groups) * block.head_width;
  }
  const int64_t inner = block.expand * width;
  const int64_t rank = block.dt_rank > 0 ? block.dt_rank : (width + 15) / 16;
  const int64_t projections = width * 2 * inner + inner * width;
  const int64_t convolution = inner * (block.conv_width + 1);
  const int64_t step_sizes = rank * inner + inner;
  return projections + convolution + inner * (rank + 2 * block.state) + step_sizes +
         inner * block.state + inner;
}

int64_t parameters(const ModelOptions& model) {
  int64_t sum = 0;
  for (const char letter : model.layers) {
    if (letter == ' ') continue;
    const BlockOptions& block = model.blocks.at(std::string(1, letter));
    sum += model.width + mixer_parameters(block, model.width);
    if (block.feed_forward == FeedForwardKind::none) continue;
    const int64_t hidden = block.hidden > 0 ? block.hidden : (model.width * 8 / 3 + 63) / 64 * 64;
    sum += model.width + 3 * model.width * hidden;
  }
  return sum * model.repeat + model.width +
         model.width * model.vocabulary * (model.tied_embeddings ? 1 : 2);
}

TEST(ShippedRecipes, AllLoad) {
  const std::vector<std::string> paths = shipped_recipes();
  EXPECT_GE(paths.size(), 9U);
  for (const std::string& path : paths) {
    EXPECT_NO_THROW({
      const Recipe recipe = load_recipe(path);
      EXPECT_EQ(recipe.run.name, std::filesystem::path(path).stem().string());
      EXPECT_GT(parameters(recipe.model), 0) << path;
    }) << path;
  }
}

TEST(ShippedRecipes, ReferenceHybridsAreAsDefined) {
  const ModelOptions small = load_recipe(kRecipes + "pretrain/samba-20m.toml").model;
  EXPECT_EQ(small.width, 384);
  EXPECT_EQ(small.layers, "mw");
  EXPECT_EQ(small.repeat, 4);
  EXPECT_EQ(small.blocks.at("m").dt_rank, 384 / 16);
  EXPECT_EQ(small.blocks.at("w").window, 512);
  const ModelOptions large = load_recipe(kRecipes + "pretrain/samba-125m.toml").model;
  EXPECT_EQ(large.width, 768);
  EXPECT_EQ(large.repeat, 7);
  EXPECT_EQ(large.blocks.at("m").dt_rank, 768 / 16);
  EXPECT_EQ(large.vocabulary, 16384);
  // 26.25 · width² parameters in matrix products per repeat; the rest are small vectors.
  for (const ModelOptions& model : {small, large}) {
    const double width = static_cast<double>(model.width);
    const double expected = 26.25 * width * width * static_cast<double>(model.repeat) +
                            width * static_cast<double>(model.vocabulary);
    EXPECT_NEAR(static_cast<double>(parameters(model)) / expected, 1.0, 0.01);
  }
}

TEST(ShippedRecipes, ComparedModelsAreEquallyLarge) {
  const auto size = [](const std::string& name) {
    return static_cast<double>(parameters(load_recipe(kRecipes + name + ".toml").model));
  };
  const double reference = size("pretrain/samba-20m");
  for (const char* const name : {"mamba-20m", "window-20m", "full-20m", "jamba-20m"}) {
    EXPECT_NEAR(size("pretrain/" + std::string(name)) / reference, 1.0, 0.02) << name;
  }
  for (const char* const name : {"full", "window", "mamba"}) {
    EXPECT_NEAR(size("study/" + std::string(name)) / size("study/hybrid"), 1.0, 0.02) << name;
  }
}

}  // namespace
}  // namespace sidewinder
