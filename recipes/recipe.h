#pragma once
// A recipe is all options of one run, read from a TOML file:
//
//   const Recipe recipe = load_recipe("recipes/smoke/quickstart.toml", {"train.steps=10"});
//
// Every key is declared once, in recipes/schema; reading, checking, the reference page and the
// rules of resuming all follow from those tables.

#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/options.h"
#include "data/options.h"
#include "model/options.h"
#include "trainer/options.h"

namespace sidewinder {

struct Recipe {
  RunOptions run;  // name and folder are always filled in
  ModelOptions model;
  DataOptions data;
  TrainOptions train;
  ContextOptions context;
  OptimizerOptions optimizer;
  LearningRateOptions learning_rate;
  CheckpointOptions checkpoint;
  InitOptions init;
  ExtendOptions extend;
};

// Reads `path`, the files it extends, then applies each "key=value" of `set_overrides` in order.
// Throws one Error{user} whose text holds every problem found, each as
//   file:line:column: key: what was found
//       what to do
Recipe load_recipe(const std::string& path, const std::vector<std::string>& set_overrides = {});

// The same for text that is at hand, such as a checkpoint's; `name` stands for the file in
// messages. `extends` is refused. What only training forbids (positions that follow the length) is
// accepted: such a recipe describes a model that is used.
Recipe parse_recipe(std::string_view text, const std::string& name,
                    const std::vector<std::string>& set_overrides = {});

// The whole recipe as TOML, defaults included, in a fixed order: equal recipes have equal text, and
// parse_recipe(resolved_toml(r)) is r. Keys that have no effect in this recipe are left out.
std::string resolved_toml(const Recipe& recipe);

// The keys that differ between the recipe stored in a checkpoint and the present one although they
// may not change within a run, each with both values; empty: the run may go on. Keys that an older
// version did not write count as their defaults.
std::vector<std::string> resume_conflicts(std::string_view old_resolved, const Recipe& now);

}  // namespace sidewinder
