#include "tools/commands/plot.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "kernels/base/check.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

using nlohmann::json;

// x: the end of the bucket, so that position 0 has a place on a logarithmic axis.
Curve position_curve(const std::string& name, const json& by_position) {
  Curve curve{name, {}};
  for (const json& bucket : by_position) {
    curve.points.emplace_back(bucket.at("last").get<double>() + 1, bucket.at("loss").get<double>());
  }
  return curve;
}

std::string joined(const std::string& name, const std::string& part) {
  return name.empty() ? part : name + ", " + part;
}

void add_context(const std::vector<NamedResult>& results, CurvePicture& picture) {
  std::set<int64_t> contexts;
  for (const NamedResult& result : results) {
    const int64_t context = result.json.value("trained_context", int64_t{0});
    if (context > 0) contexts.insert(context);
  }
  if (contexts.size() != 1) return;
  picture.marked_x = static_cast<double>(*contexts.begin());
  picture.mark_label = "trained";
}

void add_lengths(const std::vector<NamedResult>& results, std::vector<Figure>& figures) {
  CurvePicture picture{.title = "Loss against context length",
                       .x_label = "context length, tokens",
                       .y_label = "loss, nats per token",
                       .curves = {},
                       .marked_x = {},
                       .mark_label = {}};
  std::set<std::string> conventions;
  for (const auto& [name, result] : results) {
    if (!result.contains("by_length") || result["by_length"].size() < 2) continue;
    Curve curve{name, {}};
    for (const json& one : result["by_length"]) {
      curve.points.emplace_back(one.at("length").get<double>(), one.at("loss").get<double>());
      const std::string convention = one.at("convention");
      conventions.insert(one.contains("stride") && one["stride"] == one["length"]
                             ? "windows that do not overlap (stride = length)"
                         : one.contains("stride")
                             ? fmt::format("windows every {} tokens, each prediction scored once",
                                           one["stride"].get<int64_t>())
                             : "one window per document, its first tokens");
    }
    std::sort(curve.points.begin(), curve.points.end());
    picture.curves.push_back(std::move(curve));
  }
  if (picture.curves.empty()) return;
  add_context(results, picture);
  std::string caption = "Mean over predictions; ";
  for (const std::string& convention : conventions) {
    caption += (convention == *conventions.begin() ? "" : " or ") + convention;
  }
  figures.push_back({svg_of(picture), caption + "."});
}

// All lengths of one result; of several, the longest of each.
void add_positions(const std::vector<NamedResult>& results, std::vector<Figure>& figures) {
  CurvePicture picture{.title = "Loss against position",
                       .x_label = "position of the predicting token, below",
                       .y_label = "loss, nats per token",
                       .curves = {},
                       .marked_x = {},
                       .mark_label = {}};
  for (const auto& [file, result] : results) {
    const std::string name = results.size() == 1 ? "" : file;
    if (result.contains("by_position")) {
      picture.curves.push_back(
          position_curve(joined(name, fmt::format("context {}", result.value("context", 0))),
                         result["by_position"]));
    }
    if (result.contains("by_length")) {
      int64_t longest = 0;
      for (const json& one : result["by_length"]) {
        longest = std::max(longest, one.at("length").get<int64_t>());
      }
      for (const json& one : result["by_length"]) {
        const int64_t length = one.at("length");
        if (results.size() > 1 && length != longest) continue;
        picture.curves.push_back(
            position_curve(joined(name, fmt::format("window {}", length)), one.at("by_position")));
      }
    }
    if (result.contains("stream")) {
      picture.curves.push_back(
          position_curve(joined(name, "stream"), result["stream"].at("by_position")));
    }
  }
  if (picture.curves.empty()) return;
  add_context(results, picture);
  figures.push_back(
      {svg_of(picture),
       "Mean loss of predictions made at positions from half the given number to below "
       "it: in the window, or in the document where it is read as a stream."});
}

std::optional<double> depth_of(const json& cell) {
  if (!cell.contains("depth") || cell["depth"].is_null()) return std::nullopt;
  return cell["depth"].get<double>();
}

std::string trials_text(const json& cells) {
  std::set<int64_t> trials;
  for (const json& cell : cells) trials.insert(cell.value("trials", int64_t{0}));
  if (trials.size() != 1 || *trials.begin() == 0) return "";
  return fmt::format("; {} trials per cell", *trials.begin());
}

void add_heat_map(const std::string& name, const json& task, std::vector<Figure>& figures) {
  std::map<int64_t, size_t> columns;
  std::map<double, size_t> rows;
  for (const json& cell : task.at("cells")) {
    columns[cell.at("length").get<int64_t>()] = 0;
    rows[*depth_of(cell)] = 0;
  }
  const std::string title = task.at("task");
  HeatPicture picture{.title = joined(name, title),
                      .x_label = "context length, tokens",
                      .y_label = "depth, % of the context",
                      .columns = {},
                      .rows = {},
                      .values = {}};
  for (auto& [length, index] : columns) {
    index = picture.columns.size();
    picture.columns.push_back(std::to_string(length));
  }
  for (auto& [depth, index] : rows) {
    index = picture.rows.size();
    picture.rows.push_back(fmt::format("{:.3g}", 100 * depth));
  }
  picture.values.assign(rows.size(), std::vector<std::optional<double>>(columns.size()));
  for (const json& cell : task["cells"]) {
    if (cell.at("score").is_null()) continue;
    picture.values[rows[*depth_of(cell)]][columns[cell["length"].get<int64_t>()]] =
        cell["score"].get<double>();
  }
  figures.push_back({svg_of(picture),
                     "Score in percent by length of the context and depth of what "
                     "is asked for" +
                         trials_text(task["cells"]) + "."});
}

json tasks_of(const json& result) {
  if (result.contains("cells")) return json::array({result});
  return result.value("tasks", json::array());
}

void add_tasks(const std::vector<NamedResult>& results, std::vector<Figure>& figures) {
  CurvePicture by_length{.title = "Scores against context length",
                         .x_label = "context length, tokens",
                         .y_label = "score, %",
                         .curves = {},
                         .marked_x = {},
                         .mark_label = {}};
  for (const auto& [file, result] : results) {
    const std::string name = results.size() == 1 ? "" : file;
    for (const json& task : tasks_of(result)) {
      const json& cells = task.at("cells");
      if (cells.empty()) continue;
      const bool has_depths = std::all_of(
          cells.begin(), cells.end(), [](const json& cell) { return depth_of(cell).has_value(); });
      if (has_depths) {
        add_heat_map(name, task, figures);
        continue;
      }
      Curve curve{joined(name, task.at("task")), {}};
      for (const json& cell : cells) {
        curve.points.emplace_back(cell.at("length").get<double>(),
                                  100 * cell.at("score").get<double>());
      }
      std::sort(curve.points.begin(), curve.points.end());
      by_length.curves.push_back(std::move(curve));
    }
  }
  if (by_length.curves.empty()) return;
  figures.push_back({svg_of(by_length), "Tasks that draw their places themselves."});
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

json read_result(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail_environment("cannot read {}; check that it exists", path);
  const json result = json::parse(file, nullptr, /*allow_exceptions=*/false);
  SIDEWINDER_REQUIRE(result.is_object(),
                     "{} is not a JSON object; give files that `eval --json` wrote", path);
  return result;
}

}  // namespace

std::vector<Figure> figures_of(const std::vector<NamedResult>& results) {
  for (const NamedResult& result : results) {
    const json& json = result.json;
    SIDEWINDER_REQUIRE(
        json.contains("by_length") || json.contains("by_position") || json.contains("stream") ||
            json.contains("tasks") || json.contains("cells"),
        "{} has nothing to draw: neither by_length, by_position nor stream of `eval`, "
        "nor tasks of `eval --tasks`",
        result.name);
  }
  std::vector<Figure> figures;
  add_lengths(results, figures);
  add_positions(results, figures);
  add_tasks(results, figures);
  return figures;
}

void check_report(const std::string& path) {
  SIDEWINDER_REQUIRE(path.empty() || ends_with(path, ".html"),
                     "--report is \"{}\"; its name must end in .html", path);
}

void write_report(const std::string& path, const std::string& model, const json& result) {
  write_text_file(path, html_page("Evaluation of " + model,
                                  fmt::format("Checkpoint of step {}.", result.value("step", 0)),
                                  figures_of({{model, result}})));
}

ExitCode plot(const PlotCommand& command) {
  SIDEWINDER_REQUIRE(ends_with(command.output, ".svg") || ends_with(command.output, ".html"),
                     "the output is \"{}\"; its name must end in .svg or .html", command.output);
  SIDEWINDER_REQUIRE(command.names.empty() || command.names.size() == command.results.size(),
                     "{} names were given for {} files; give one for each", command.names.size(),
                     command.results.size());
  std::vector<NamedResult> results;
  for (size_t i = 0; i < command.results.size(); ++i) {
    const std::string& path = command.results[i];
    results.push_back(
        {command.names.empty() ? std::filesystem::path(path).stem().string() : command.names[i],
         read_result(path)});
  }
  std::vector<Figure> figures;
  try {
    figures = figures_of(results);
  } catch (const json::exception& error) {
    fail_user("a result is not as `eval --json` writes it: {}", error.what());
  }
  SIDEWINDER_REQUIRE(!figures.empty(), "there is nothing to draw in the results given");
  if (ends_with(command.output, ".html")) {
    write_text_file(command.output, html_page("Evaluation", "", figures));
  } else {
    std::vector<std::string> svgs;
    for (const Figure& figure : figures) svgs.push_back(figure.svg);
    write_text_file(command.output, svg_document(svgs));
  }
  fmt::print("{} picture{} in {}\n", figures.size(), figures.size() == 1 ? "" : "s",
             command.output);
  return ExitCode::success;
}

}  // namespace sidewinder
