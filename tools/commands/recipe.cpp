#include "tools/commands/recipe.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "kernels/base/error.h"
#include "recipes/recipe.h"
#include "recipes/reference.h"

namespace sidewinder {
namespace {

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) fail_environment("{}: cannot be written; check the folder and its free space", path);
}

void write_json(const std::string& path, const nlohmann::ordered_json& value) {
  if (!path.empty()) write_file(path, value.dump(2) + "\n");
}

int64_t num_blocks(const ModelOptions& model) {
  const auto letters = model.layers.size() - static_cast<size_t>(std::count(
                                                 model.layers.begin(), model.layers.end(), ' '));
  return static_cast<int64_t>(letters) * model.repeat;
}

std::string corpora_text(const DataOptions& data) {
  std::string text;
  for (const CorpusOptions& corpus : data.train) {
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", corpus.name, corpus.folder);
  }
  return text;
}

}  // namespace

int recipe_check(const std::string& path, const std::vector<std::string>& set_overrides,
                 const std::string& json_file) {
  const Recipe recipe = load_recipe(path, set_overrides);
  const int64_t tokens = recipe.train.steps * recipe.train.tokens_per_step;
  fmt::print("{}: good\n", path);
  fmt::print("    model       {} blocks ({} times \"{}\"), width {}, vocabulary {}\n",
             num_blocks(recipe.model), recipe.model.repeat, recipe.model.layers, recipe.model.width,
             recipe.model.vocabulary);
  fmt::print("    data        {}\n", corpora_text(recipe.data));
  fmt::print("    validation  {}\n",
             recipe.data.validation.empty() ? "none" : recipe.data.validation);
  fmt::print("    steps       {} of {} tokens in rows of {}: {:.4g} million tokens\n",
             recipe.train.steps, recipe.train.tokens_per_step, recipe.train.context,
             static_cast<double>(tokens) / 1e6);
  fmt::print("    folder      {}\n", recipe.run.folder);
  write_json(json_file, {{"recipe", path},
                         {"blocks", num_blocks(recipe.model)},
                         {"steps", recipe.train.steps},
                         {"tokens", tokens},
                         {"folder", recipe.run.folder}});
  return static_cast<int>(ExitCode::success);
}

int recipe_show(const std::string& path, const std::vector<std::string>& set_overrides,
                const std::string& json_file) {
  const std::string text = resolved_toml(load_recipe(path, set_overrides));
  fmt::print("{}", text);
  write_json(json_file, {{"recipe", path}, {"resolved_toml", text}});
  return static_cast<int>(ExitCode::success);
}

int recipe_explain(const std::string& key, const std::string& json_file) {
  nlohmann::ordered_json entries = nlohmann::ordered_json::array();
  for (const Explanation& explanation : explain(key)) {
    fmt::print("{}", explanation.text);
    entries.push_back({{"key", explanation.path}, {"text", explanation.text}});
  }
  write_json(json_file, entries);
  return static_cast<int>(ExitCode::success);
}

int recipe_docs(const std::string& output) {
  if (output.empty()) {
    fmt::print("{}", reference_page());
  } else {
    write_file(output, reference_page());
  }
  return static_cast<int>(ExitCode::success);
}

}  // namespace sidewinder
