// Every wrong recipe in bad/ yields exactly the text beside it. A leading "# --set key=value" is
// passed as an argument. With SIDEWINDER_UPDATE_EXPECTED set, the texts are written instead of
// compared; read what changed before committing it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "kernels/base/error.h"
#include "recipes/recipe.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;

const fs::path kBad = fs::path(SIDEWINDER_SOURCE_DIR) / "tests/recipes/bad";

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> arguments_in(const fs::path& path) {
  const std::string mark = "# --set ";
  std::vector<std::string> arguments;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line) && line.rfind(mark, 0) == 0;) {
    arguments.push_back(line.substr(mark.size()));
  }
  return arguments;
}

// The message, with paths relative to tests/recipes.
std::string message_of(const fs::path& path) {
  std::string message = "(no error)";
  try {
    load_recipe(path.string(), arguments_in(path));
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    message = error.what();
  }
  const std::string root = kBad.parent_path().string() + "/";
  for (size_t at = 0; (at = message.find(root, at)) != std::string::npos;) {
    message.erase(at, root.size());
  }
  return message + "\n";
}

std::vector<std::string> bad_recipes() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kBad)) {
    if (entry.path().extension() == ".toml") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(RecipeMessages, EveryBadRecipeYieldsExactlyItsText) {
  for (const std::string& name : bad_recipes()) {
    SCOPED_TRACE(name);
    const fs::path expected = kBad / (name + ".txt");
    const std::string message = message_of(kBad / (name + ".toml"));
    if (std::getenv("SIDEWINDER_UPDATE_EXPECTED")) std::ofstream(expected) << message;
    EXPECT_EQ(message, read_text(expected));
  }
}

TEST(RecipeMessages, AFileThatCannotBeReadIsNamed) {
  const auto message = [](const std::string& path) -> std::string {
    try {
      load_recipe(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::user);
      return error.what();
    }
    return "(no error)";
  };
  EXPECT_EQ(message("no/such.toml"),
            "no/such.toml: no such file\n"
            "    give the path of a recipe, as in recipes/smoke/copy.toml");
  EXPECT_EQ(message("/tmp"),
            "/tmp: is a folder, not a file\n"
            "    give the path of a recipe, as in recipes/smoke/copy.toml");
}

TEST(RecipeMessages, TheRecipeThatTheBadOnesExtendIsGood) {
  EXPECT_NO_THROW(load_recipe((kBad.parent_path() / "minimal.toml").string()));
}

TEST(RecipeMessages, NoTextIsLeftBehind) {
  for (const auto& entry : fs::directory_iterator(kBad)) {
    fs::path recipe = entry.path();
    if (recipe.extension() == ".txt") {
      EXPECT_TRUE(fs::exists(recipe.replace_extension(".toml"))) << entry.path();
    }
  }
}

}  // namespace
}  // namespace sidewinder
