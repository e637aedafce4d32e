#pragma once
// From files and arguments to one tree of values. load.cpp alone includes the TOML library.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/diagnostics.h"
#include "recipes/node.h"

namespace sidewinder {

// `source` and `precedence` go into every Place. Nothing: a syntax problem was reported.
std::optional<Node> parse_toml(std::string_view text, const std::string& source, int precedence,
                               Problems& problems);

// The file with what it extends beneath it and the --set arguments on top. Nothing: a file could
// not be read.
std::optional<Node> load_tree(const std::string& path,
                              const std::vector<std::string>& set_overrides, Problems& problems);

// Lays `--set` arguments over a tree, each above the one before.
void apply_overrides(Node& tree, const std::vector<std::string>& set_overrides, Problems& problems);

}  // namespace sidewinder
