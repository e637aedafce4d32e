#pragma once
// What there is to say of the keys of a recipe, from the same tables that read it.

#include <string>
#include <string_view>
#include <vector>

#include "recipes/table.h"

namespace sidewinder {

struct Explanation {
  std::string path;  // "train.steps"; of a table, "train"
  std::string text;  // a few lines for the terminal
};

// A key ("train.steps"), its last part ("steps": every key of that name), or a table ("train",
// "model.block.m": the table and its keys). Throws Error{user} with the nearest name.
std::vector<Explanation> explain(std::string_view path);

// docs/recipes.md
std::string reference_page();

}  // namespace sidewinder
