#include "tools/commands/task_spec.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "kernels/base/check.h"
#include "recipes/diagnostics.h"
#include "tools/commands/table.h"

namespace sidewinder {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts = {""};
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& candidates) {
  const std::string nearest = nearest_name(name, candidates);
  return nearest.empty() ? "" : "; did you mean " + nearest + "?";
}

}  // namespace

TaskSpec parse_task(const std::string& text) {
  const std::vector<std::string> parts = split(text, ':');
  TaskSpec spec;
  spec.text = text;
  std::vector<std::string> names;
  for (const TaskKind& kind : task_kinds()) {
    names.push_back(kind.name);
    if (kind.name == parts[0]) spec.kind = &kind;
  }
  SIDEWINDER_REQUIRE(spec.kind != nullptr, "there is no task \"{}\"{}\nthere are: {}", parts[0],
                     did_you_mean(parts[0], names), word_list(names));
  names.clear();
  for (const auto& [name, help] : spec.kind->settings) names.push_back(name);
  for (size_t i = 1; i < parts.size(); ++i) {
    const size_t equals = parts[i].find('=');
    SIDEWINDER_REQUIRE(equals != std::string::npos,
                       "\"{}\" in task \"{}\" has no value; write {}:NAME=VALUE", parts[i], text,
                       parts[0]);
    const std::string name = parts[i].substr(0, equals);
    SIDEWINDER_REQUIRE(spec.kind->settings.count(name) == 1,
                       "task {} has no setting \"{}\"{}\nit has: {}", parts[0], name,
                       did_you_mean(name, names), word_list(names));
    SIDEWINDER_REQUIRE(spec.settings.emplace(name, parts[i].substr(equals + 1)).second,
                       "task \"{}\" sets {} twice; leave one", text, name);
  }
  return spec;
}

std::vector<TaskSpec> parse_tasks(const std::string& text) {
  std::vector<TaskSpec> specs;
  for (const std::string& part : split(text, ',')) {
    if (part == "ruler") {
      for (const TaskKind& kind : task_kinds()) {
        if (kind.is_ruler) specs.push_back({&kind, {}, kind.name});
      }
    } else {
      specs.push_back(parse_task(part));
    }
  }
  std::set<std::string> seen;
  for (const TaskSpec& spec : specs) {
    SIDEWINDER_REQUIRE(seen.insert(spec.text).second, "--tasks names {} twice; leave one",
                       spec.text);
  }
  return specs;
}

std::vector<int64_t> parse_lengths(const std::string& text, const std::string& option) {
  std::vector<int64_t> lengths;
  for (const std::string& part : split(text, ',')) {
    int64_t value = 0;
    const auto result = std::from_chars(part.data(), part.data() + part.size(), value);
    SIDEWINDER_REQUIRE(
        result.ec == std::errc() && result.ptr == part.data() + part.size() && value >= 1,
        "{} has \"{}\"; it takes positive whole numbers with commas between them, as in "
        "{} 1024,2048",
        option, part, option);
    lengths.push_back(value);
  }
  std::sort(lengths.begin(), lengths.end());
  const auto twice = std::adjacent_find(lengths.begin(), lengths.end());
  SIDEWINDER_REQUIRE(twice == lengths.end(), "{} has {} twice; leave one", option, *twice);
  return lengths;
}

std::string task_help() {
  std::vector<TableRow> rows = {{"task", "setting", "meaning (default)"}};
  for (const TaskKind& kind : task_kinds()) {
    rows.push_back({kind.name, "", kind.summary});
    for (const auto& [name, help] : kind.settings) rows.push_back({"", name, help});
  }
  return table_text(rows, "lll");
}

}  // namespace sidewinder
