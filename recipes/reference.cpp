#include "recipes/reference.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/base/error.h"
#include "recipes/diagnostics.h"
#include "recipes/schema.h"

namespace sidewinder {
namespace {

std::string value_words(const FieldInfo& field) {
  if (!field.choices.empty()) return word_list(quoted_names(field.choices), "or");
  return field.range.empty() ? field.type : field.type + ", " + field.range;
}

std::string default_words(const FieldInfo& field) {
  return field.is_required ? "required" : field.default_value;
}

std::string resume_words(const FieldInfo& field) {
  switch (field.resume) {
    case ResumeRule::fixed: break;
    case ResumeRule::may_grow: return "may grow";
    case ResumeRule::may_change: return "may change";
  }
  return "fixed";
}

// `mixer = "attention" and pattern = "window"`
std::string condition_words(const TableInfo& table, const FieldInfo& field) {
  std::vector<std::string> parts;
  for (const Condition& condition : field.conditions) {
    const auto is_it = [&](const FieldInfo& other) { return other.key == condition.key; };
    const auto other = std::find_if(table.fields.begin(), table.fields.end(), is_it);
    const bool is_boolean = other != table.fields.end() && other->type == "true or false";
    const auto values = is_boolean ? condition.values : quoted_names(condition.values);
    parts.push_back(fmt::format("{} = {}", condition.key, word_list(values, "or")));
  }
  return word_list(parts);
}

Explanation explain_field(const TableInfo& table, const FieldInfo& field) {
  const std::string path = schema::child(table.path, field.key);
  std::string text =
      fmt::format("{}\n    {}\n    value      {}\n    default    {}\n    on resume  {}\n", path,
                  field.help, value_words(field), default_words(field), resume_words(field));
  if (!field.conditions.empty()) {
    text += fmt::format("    only with  {}\n", condition_words(table, field));
  }
  return {path, text};
}

std::vector<Explanation> explain_table(const TableInfo& table) {
  std::vector<Explanation> all{{table.path, fmt::format("{}\n    {}\n", table.header, table.help)}};
  for (const FieldInfo& field : table.fields) all.push_back(explain_field(table, field));
  return all;
}

// Every key whose last part is `name`.
std::vector<Explanation> explain_name(std::string_view name) {
  std::vector<Explanation> found;
  for (const Section& section : sections()) {
    for (const TableInfo& table : section.tables) {
      for (const FieldInfo& field : table.fields) {
        if (field.key == name) found.push_back(explain_field(table, field));
      }
    }
  }
  return found;
}

[[noreturn]] void fail_unknown(std::string_view path) {
  const bool is_whole = path.find('.') != std::string_view::npos;
  std::vector<std::string> names;
  std::vector<std::string> section_names;
  for (const Section& section : sections()) {
    section_names.push_back(section.name);
    for (const TableInfo& table : section.tables) {
      names.push_back(table.path);
      for (const FieldInfo& field : table.fields) {
        names.push_back(is_whole ? schema::child(table.path, field.key) : field.key);
      }
    }
  }
  const std::string nearest = nearest_name(path, names);
  fail_user("{}: there is no such key\n    {}", path,
            nearest.empty() ? "the sections are " + word_list(section_names)
                            : fmt::format("did you mean `{}`?", nearest));
}

std::string escaped(std::string text) {
  for (size_t at = 0; (at = text.find_first_of("|<", at)) != std::string::npos; at += 2) {
    text.insert(at, "\\");
  }
  return text;
}

std::string page_table(const TableInfo& table) {
  std::string text = fmt::format("\n## `{}`\n\n{}\n\n", table.header, escaped(table.help));
  text += "| key | value | default | on resume | meaning |\n| --- | --- | --- | --- | --- |\n";
  for (const FieldInfo& field : table.fields) {
    std::string meaning = field.help;
    if (!field.conditions.empty()) {
      meaning += fmt::format(" (only with {})", condition_words(table, field));
    }
    const std::string default_value = default_words(field);
    const bool is_code = !field.is_required;
    text += fmt::format("| `{}` | {} | {} | {} | {} |\n", field.key, value_words(field),
                        is_code ? "`" + default_value + "`" : default_value, resume_words(field),
                        escaped(meaning));
  }
  return text;
}

constexpr const char* kPageHead = R"(# Recipes: every key

Written by `sidewinder recipe docs docs/recipes.md` from the tables in `recipes/schema`; do not edit.

A recipe is a TOML file (https://toml.io) that holds all options of a run. `extends = "other.toml"`
as its first line reads another file below it; the name is relative to the folder of the file. Tables
are merged key by key, lists are replaced. `--set section.key=value` comes on top; words need no
quotes there, and members of lists are numbered from 0: `--set data.train.0.folder=shards`.

A value is used as written or refused; all problems are reported together. A key that has no effect
is refused where it is chosen. Where a file that extends another, or a `--set`, makes an inherited
key or block pointless, the inherited one does not count.

`sidewinder recipe check FILE` reads a recipe without running it, `recipe show FILE` prints it with
all defaults, `recipe explain KEY` says what stands here.

**on resume** tells whether a key may differ when a run goes on from its checkpoints. `fixed` keys
may not: use `--fresh` to start anew beside the old run.
)";

}  // namespace

std::vector<Explanation> explain(std::string_view path) {
  const SchemaKey key = find_schema_key(path);
  if (key.field) return {explain_field(*key.table, *key.field)};
  if (const TableInfo* const table = find_schema_table(path)) {
    std::vector<Explanation> all = explain_table(*table);
    for (const Section& section : sections()) {
      if (section.name != path) continue;
      for (size_t i = 1; i < section.tables.size(); ++i) {
        for (Explanation& one : explain_table(section.tables[i])) all.push_back(std::move(one));
      }
    }
    return all;
  }
  std::vector<Explanation> found = explain_name(path);
  if (found.empty()) fail_unknown(path);
  return found;
}

std::string reference_page() {
  std::string page = kPageHead;
  for (const Section& section : sections()) {
    for (const TableInfo& table : section.tables) page += page_table(table);
  }
  return page;
}

}  // namespace sidewinder
