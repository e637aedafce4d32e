#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "tools/picture.h"

namespace sidewinder {

struct PlotCommand {
  std::vector<std::string> results;  // JSON files of eval
  std::vector<std::string> names;    // one per file, for legends; empty: the files' names
  std::string output;                // FILE.svg or FILE.html
};

// Draws what `eval --json` wrote: loss against context length and against position, a curve per
// file (with one file, per length); of tasks a heat map of length × depth, or scores against
// length.
ExitCode plot(const PlotCommand& command);

struct NamedResult {
  std::string name;
  nlohmann::json json;
};
// Error{user} where a result has nothing of the above.
std::vector<Figure> figures_of(const std::vector<NamedResult>& results);

// For eval --report: that a page can be written there (or is not wanted: empty), and the page of
// one result.
void check_report(const std::string& path);
void write_report(const std::string& path, const std::string& model, const nlohmann::json& result);

}  // namespace sidewinder
