#pragma once
// `sidewinder show rope RECIPE`: how the attention blocks of a recipe turn positions, pair by pair.

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "recipes/recipe.h"

namespace sidewinder {

struct ShowRopeCommand {
  std::string recipe;
  std::vector<std::string> sets;
  std::string json_path;
};

// For every block letter with position = rope: the attention factor, and for every pair its
// frequency before and after scaling, its wavelength in tokens after scaling, the share of it that
// is interpolated, and its rotations over the original context (without scaling: the context)
// before scaling. Error{user} if no block turns positions.
ExitCode show_rope(const ShowRopeCommand& command);

// What it prints, as JSON.
nlohmann::ordered_json rope_table_json(const Recipe& recipe);

}  // namespace sidewinder
