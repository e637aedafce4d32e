#include "recipes/recipe.h"

#include <algorithm>
#include <filesystem>

#include "recipes/check.h"
#include "recipes/load.h"
#include "recipes/schema.h"

namespace sidewinder {
namespace {

void report_unknown_sections(const Node& tree, Problems& problems) {
  std::vector<std::string> known;
  for (const Section& section : sections()) known.push_back(section.name);
  for (const Node& item : tree.items) {
    const auto is_it = [&](const std::string& name) { return name == item.key; };
    if (std::none_of(known.begin(), known.end(), is_it)) {
      schema::report_unknown_key(item, item.key, known, problems);
    }
  }
}

Recipe recipe_of(const std::optional<Node>& tree, const std::string& name, RecipeUse use,
                 Problems& problems) {
  Recipe recipe;
  if (tree) {
    report_unknown_sections(*tree, problems);
    for (const Section& section : sections()) section.read(recipe, *tree, problems);
    check_recipe(recipe, *tree, use, problems);
  }
  problems.throw_if_any();
  if (recipe.run.name.empty()) recipe.run.name = name;
  if (recipe.run.folder.empty()) recipe.run.folder = "runs/" + recipe.run.name;
  return recipe;
}

}  // namespace

Recipe load_recipe(const std::string& path, const std::vector<std::string>& set_overrides) {
  Problems problems;
  const std::optional<Node> tree = load_tree(path, set_overrides, problems);
  return recipe_of(tree, std::filesystem::path(path).stem().string(), RecipeUse::training,
                   problems);
}

Recipe parse_recipe(std::string_view text, const std::string& name,
                    const std::vector<std::string>& set_overrides) {
  Problems problems;
  std::optional<Node> tree = parse_toml(text, name, 0, problems);
  if (tree) apply_overrides(*tree, set_overrides, problems);
  return recipe_of(tree, std::filesystem::path(name).stem().string(), RecipeUse::inference,
                   problems);
}

std::string resolved_toml(const Recipe& recipe) {
  std::string text;
  for (const Section& section : sections()) {
    if (!text.empty()) text += '\n';
    text += section.write(recipe);
  }
  return text;
}

}  // namespace sidewinder
