#pragma once
// `sidewinder recipe check | show | explain | docs`. Each returns the exit code; a wrong recipe is
// an Error{user} that holds all its problems. `json_file`, where not empty, gets the same as JSON.

#include <string>
#include <vector>

namespace sidewinder {

// Reads the recipe and says in a few lines what it would do.
int recipe_check(const std::string& path, const std::vector<std::string>& set_overrides,
                 const std::string& json_file = {});
// Prints the recipe with all defaults, as TOML.
int recipe_show(const std::string& path, const std::vector<std::string>& set_overrides,
                const std::string& json_file = {});
// What is known of a key or a section.
int recipe_explain(const std::string& key, const std::string& json_file = {});
// Writes the reference page to `output`; empty: to standard output.
int recipe_docs(const std::string& output);

}  // namespace sidewinder
