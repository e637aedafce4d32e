#pragma once
// The rules that involve more than one key.

#include "recipes/diagnostics.h"
#include "recipes/node.h"
#include "recipes/recipe.h"

namespace sidewinder {

enum class RecipeUse : uint8_t { training, inference };

// Reports what does not fit together. `tree` tells where each key was written; keys that already
// have a problem take part in no rule. Drops block tables that an extended file, or the file before
// a --set of model.layers, has beyond what `layers` uses.
void check_recipe(Recipe& recipe, const Node& tree, RecipeUse use, Problems& problems);

}  // namespace sidewinder
