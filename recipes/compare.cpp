// What a changed recipe means for a run that has checkpoints.

#include <fmt/format.h>

#include <map>
#include <set>

#include "kernels/base/error.h"
#include "recipes/load.h"
#include "recipes/schema.h"

namespace sidewinder {
namespace {

using Values = std::map<std::string, std::string>;  // as TOML, by dotted key

void flatten(const Node& node, const std::string& path, Values& values) {
  const bool is_list = node.kind == Node::Kind::array;
  if (!is_list && !node.is_table()) {
    values[path] = node.value_text();
    return;
  }
  for (size_t i = 0; i < node.items.size(); ++i) {
    const std::string& key = node.items[i].key;
    flatten(node.items[i], schema::child(path, is_list ? std::to_string(i) : key), values);
  }
}

Values values_of(std::string_view resolved) {
  Problems problems;
  const std::optional<Node> tree = parse_toml(resolved, "the checkpoint's recipe", 0, problems);
  if (!tree) throw Error(Blame::environment, problems.text());
  Values values;
  flatten(*tree, "", values);
  return values;
}

// The value, its default where the key was not written, or nothing.
std::string value_or_default(const Values& values, const std::string& key, const FieldInfo* field) {
  const auto found = values.find(key);
  if (found != values.end()) return found->second;
  return field && !field->is_required ? field->default_value : "";
}

bool has_shrunk(const std::string& before, const std::string& now) {
  return before.empty() || now.empty() || std::stoll(now) < std::stoll(before);
}

// Empty: no conflict.
std::string conflict(const std::string& key, const Values& old_values, const Values& new_values) {
  const FieldInfo* const field = find_schema_key(key).field;
  const std::string before = value_or_default(old_values, key, field);
  const std::string now = value_or_default(new_values, key, field);
  const ResumeRule rule = field ? field->resume : ResumeRule::fixed;
  if (before == now || rule == ResumeRule::may_change) return {};
  if (rule == ResumeRule::may_grow && !has_shrunk(before, now)) return {};
  return fmt::format("{}: {} in the checkpoint, {} now{}", key, before.empty() ? "not set" : before,
                     now.empty() ? "not set" : now,
                     rule == ResumeRule::may_grow ? "; it may only grow" : "");
}

}  // namespace

std::vector<std::string> resume_conflicts(std::string_view old_resolved, const Recipe& now) {
  const Values old_values = values_of(old_resolved);
  const Values new_values = values_of(resolved_toml(now));
  std::set<std::string> keys;
  for (const Values* const values : {&old_values, &new_values}) {
    for (const auto& [key, value] : *values) keys.insert(key);
  }
  std::vector<std::string> conflicts;
  for (const std::string& key : keys) {
    const std::string text = conflict(key, old_values, new_values);
    if (!text.empty()) conflicts.push_back(text);
  }
  return conflicts;
}

}  // namespace sidewinder
