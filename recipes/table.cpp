#include "recipes/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "recipes/schema.h"

namespace sidewinder {
namespace {

// Another section's key of this name, if there is one.
std::string same_name_elsewhere(const std::string& key) {
  for (const Section& section : sections()) {
    for (const FieldInfo& field : section.tables.front().fields) {
      if (field.key == key) return schema::child(section.name, key);
    }
  }
  return {};
}

}  // namespace

namespace schema {

void report_value(const FieldInfo& field, const Node& node, const std::string& path,
                  ReadResult result, Problems& problems) {
  const std::string value = node.value_text();
  std::string what = value + " is out of range";
  std::string advice = field.wanted();
  if (node.kind == Node::Kind::array && field.type.rfind("list", 0) == 0) {
    what = result == ReadResult::wrong_type ? "a member is of another type"
                                            : "a member is out of range";
  } else if (result == ReadResult::wrong_type) {
    what = fmt::format("{} is {}", value, node.kind_text());
    const bool is_whole = node.kind == Node::Kind::number && node.number == std::floor(node.number);
    if (field.type == "integer" && is_whole && std::abs(node.number) < 1e18) {
      what += fmt::format("; the integer is written {:.0f}", node.number);
    }
  } else if (result == ReadResult::unknown_name) {
    what = value + " is not known";
    const std::string nearest = nearest_name(node.string, field.choices);
    if (!nearest.empty()) advice = fmt::format("did you mean \"{}\"? {}", nearest, advice);
  } else if (node.kind == Node::Kind::string) {
    what = "is empty";
    advice = "needed: " + field.help;
  }
  problems.add({node.place, path, what, advice});
}

void report_unknown_key(const Node& node, const std::string& path,
                        const std::vector<std::string>& known, Problems& problems) {
  const std::string parent = path.substr(0, path.size() - node.key.size());
  const std::string nearest = nearest_name(node.key, known);
  const std::string elsewhere = same_name_elsewhere(node.key);
  std::string advice;
  if (!nearest.empty()) {
    advice = fmt::format("did you mean `{}{}`?", parent, nearest);
  } else if (!elsewhere.empty()) {
    advice = fmt::format("did you mean `{}`?", elsewhere);
  } else {
    advice = "known here: " + word_list(known);
  }
  problems.add({node.key_place, path, "unknown key", advice});
}

void report_missing(const std::string& key, const Place& place, const std::string& advice,
                    Problems& problems) {
  problems.add({place, key, "missing", advice});
}

void report_not_table(const Node& node, const std::string& path, const std::string& header,
                      Problems& problems) {
  problems.add({node.place, path, fmt::format("{} is {}", node.value_text(), node.kind_text()),
                "write it as a table, " + header});
}

void report_not_list(const Node& node, const std::string& path, const std::string& header,
                     Problems& problems) {
  const bool is_list = node.kind == Node::Kind::array;
  problems.add({node.place, path,
                is_list ? "is empty" : fmt::format("{} is {}", node.value_text(), node.kind_text()),
                fmt::format("write a list of tables, each headed {}", header)});
}

void report_block_name(const Node& node, const std::string& path, Problems& problems) {
  problems.add({node.key_place, path, fmt::format("\"{}\" is not a letter", node.key),
                "name a block by one letter, as in [model.block.m], and use it in model.layers"});
}

void report_no_effect(const Node& node, const std::string& path, const Condition& condition,
                      const std::string& present, Problems& problems) {
  const bool is_string = present.front() == '"';
  const std::string values =
      word_list(is_string ? quoted_names(condition.values) : condition.values, "or");
  problems.add({node.key_place, path,
                fmt::format("has no effect with {} = {}", condition.key, present),
                fmt::format("remove it, or set {} = {}", condition.key, values)});
}

bool meets(const Condition& condition, const std::string& present) {
  return std::any_of(
      condition.values.begin(), condition.values.end(),
      [&](const std::string& value) { return present == value || present == toml_string(value); });
}

std::string child(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

}  // namespace schema
}  // namespace sidewinder
