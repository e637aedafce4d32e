#pragma once
// Tables of fields, bound to the structs that they fill: how a section is read, written and
// described.

#include <algorithm>
#include <cctype>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "recipes/diagnostics.h"
#include "recipes/field.h"
#include "recipes/node.h"
#include "recipes/recipe.h"

namespace sidewinder {

// One table of the file, for the reference page.
struct TableInfo {
  std::string path;    // "model.block.<letter>"
  std::string header;  // "[model.block.<letter>]"
  std::string help;
  std::vector<FieldInfo> fields;
};

// A top-level table of the file, bound to its member of Recipe.
struct Section {
  std::string name;
  std::function<void(Recipe&, const Node& root, Problems&)> read;
  std::function<std::string(const Recipe&)> write;
  std::vector<TableInfo> tables;  // itself, then those within
};

// Tables within a table, by letter or as a list; at least one unless they may be absent.
template <typename Options>
struct Nested {
  bool may_be_absent = false;
  std::string key;
  std::function<void(Options&, const Node&, const std::string& path, Problems&)> read;
  std::function<std::string(const Options&, const std::string& path)> write;
  std::function<std::vector<TableInfo>(const std::string& path)> describe;
};

template <typename Options>
struct Table {
  std::string help;
  std::vector<Field<Options>> fields;
  std::vector<Nested<Options>> nested = {};
};

namespace schema {

// The parts that do not depend on the struct; table.cpp.
void report_value(const FieldInfo& field, const Node& node, const std::string& path, ReadResult,
                  Problems& problems);
void report_unknown_key(const Node& node, const std::string& path,
                        const std::vector<std::string>& known, Problems& problems);
void report_missing(const std::string& key, const Place& place, const std::string& advice,
                    Problems& problems);
void report_not_table(const Node& node, const std::string& path, const std::string& header,
                      Problems& problems);
void report_not_list(const Node& node, const std::string& path, const std::string& header,
                     Problems& problems);
void report_block_name(const Node& node, const std::string& path, Problems& problems);
void report_no_effect(const Node& node, const std::string& path, const Condition& condition,
                      const std::string& present, Problems& problems);
bool meets(const Condition& condition, const std::string& present);
std::string child(const std::string& path, const std::string& key);  // "path.key"

}  // namespace schema

// The condition of `field` that `options` does not meet, if any.
template <typename Options>
const Condition* unmet_condition(const Table<Options>& table, const Field<Options>& field,
                                 const Options& options, std::string& present) {
  for (const Condition& condition : field.conditions) {
    for (const Field<Options>& other : table.fields) {
      if (other.key != condition.key) continue;
      present = other.text(options);
      if (!schema::meets(condition, present)) return &condition;
    }
  }
  return nullptr;
}

template <typename Options>
void read_key(const Table<Options>& table, Options& options, const Node& node,
              const std::string& path, Problems& problems) {
  for (const Field<Options>& field : table.fields) {
    if (field.key != node.key) continue;
    ReadResult result = field.read(options, node);
    const bool is_empty = node.kind == Node::Kind::string && node.string.empty();
    if (field.is_required && is_empty) result = ReadResult::out_of_range;
    if (result != ReadResult::good) schema::report_value(field, node, path, result, problems);
    return;
  }
  for (const Nested<Options>& nested : table.nested) {
    if (nested.key == node.key) return nested.read(options, node, path, problems);
  }
  std::vector<std::string> known;
  for (const Field<Options>& field : table.fields) known.push_back(field.key);
  for (const Nested<Options>& nested : table.nested) known.push_back(nested.key);
  schema::report_unknown_key(node, path, known, problems);
}

// A key without effect is a problem where it was chosen. Where it only remains from an extended
// file, or from before a --set, it is not: it returns to its default and does not count.
template <typename Options>
void read_conditions(const Table<Options>& table, Options& options, const Node& node,
                     const std::string& path, Problems& problems) {
  for (const Field<Options>& field : table.fields) {
    const Node* const written = node.find(field.key);
    std::string present;
    const Condition* const unmet = unmet_condition(table, field, options, present);
    if (!written || !unmet || problems.has(schema::child(path, unmet->key))) continue;
    const Node* const cause = node.find(unmet->key);
    if (cause && cause->place.precedence > written->place.precedence) {
      field.copy(options, Options{});
    } else {
      schema::report_no_effect(*written, schema::child(path, field.key), *unmet, present, problems);
    }
  }
}

template <typename Options>
void read_table(const Table<Options>& table, Options& options, const Node& node,
                const std::string& path, Problems& problems) {
  for (const Node& item : node.items) {
    read_key(table, options, item, schema::child(path, item.key), problems);
  }
  read_conditions(table, options, node, path, problems);
  for (const Field<Options>& field : table.fields) {
    std::string present;
    const bool applies = !unmet_condition(table, field, options, present) &&
                         std::none_of(field.conditions.begin(), field.conditions.end(),
                                      [&](const Condition& condition) {
                                        return problems.has(schema::child(path, condition.key));
                                      });
    if (!field.is_required || !applies || node.find(field.key)) continue;
    schema::report_missing(schema::child(path, field.key), node.place,
                           field.wanted() + ": " + field.help, problems);
  }
  for (const Nested<Options>& nested : table.nested) {
    if (nested.may_be_absent || node.find(nested.key)) continue;
    const std::string nested_path = schema::child(path, nested.key);
    const TableInfo info = nested.describe(nested_path).front();
    schema::report_missing(nested_path, node.place, "add a table " + info.header + ": " + info.help,
                           problems);
  }
}

template <typename Options>
std::string write_table(const Table<Options>& table, const Options& options,
                        const std::string& path, const std::string& header) {
  std::string text = header + "\n";
  for (const Field<Options>& field : table.fields) {
    std::string present;
    if (unmet_condition(table, field, options, present)) continue;
    text += field.key + " = " + field.text(options) + "\n";
  }
  for (const Nested<Options>& nested : table.nested) {
    text += nested.write(options, schema::child(path, nested.key));
  }
  return text;
}

template <typename Options>
std::vector<TableInfo> describe_table(const Table<Options>& table, const std::string& path,
                                      const std::string& header) {
  std::vector<TableInfo> infos{
      {path, header, table.help, {table.fields.begin(), table.fields.end()}}};
  for (const Nested<Options>& nested : table.nested) {
    for (TableInfo& info : nested.describe(schema::child(path, nested.key))) {
      infos.push_back(std::move(info));
    }
  }
  return infos;
}

template <typename Options>
Nested<Options> optional(Nested<Options> nested) {
  nested.may_be_absent = true;
  return nested;
}

// [path.<letter>]: one table per block letter.
template <typename Options, typename Item>
Nested<Options> tables_by_letter(const std::string& key,
                                 std::map<std::string, Item> Options::*member,
                                 const Table<Item>& table) {
  Nested<Options> nested;
  nested.key = key;
  nested.read = [member, table](Options& options, const Node& node, const std::string& path,
                                Problems& problems) {
    if (!node.is_table()) {
      return schema::report_not_table(node, path, "[" + path + ".<letter>]", problems);
    }
    for (const Node& item : node.items) {
      const std::string item_path = schema::child(path, item.key);
      const bool is_letter = item.key.size() == 1 && std::isalpha(item.key.front());
      if (!item.is_table()) {
        schema::report_not_table(item, item_path, "[" + path + ".<letter>]", problems);
      } else if (!is_letter) {
        schema::report_block_name(item, item_path, problems);
      } else {
        read_table(table, (options.*member)[item.key], item, item_path, problems);
      }
    }
  };
  nested.write = [member, table](const Options& options, const std::string& path) {
    std::string text;
    for (const auto& [letter, item] : options.*member) {
      const std::string item_path = schema::child(path, letter);
      text += "\n" + write_table(table, item, item_path, "[" + item_path + "]");
    }
    return text;
  };
  nested.describe = [table](const std::string& path) {
    return describe_table(table, path + ".<letter>", "[" + path + ".<letter>]");
  };
  return nested;
}

// [[path]]: a list of tables, at least one.
template <typename Options, typename Item>
Nested<Options> list_of_tables(const std::string& key, std::vector<Item> Options::*member,
                               const Table<Item>& table) {
  Nested<Options> nested;
  nested.key = key;
  nested.read = [member, table](Options& options, const Node& node, const std::string& path,
                                Problems& problems) {
    if (node.kind != Node::Kind::array || node.items.empty()) {
      return schema::report_not_list(node, path, "[[" + path + "]]", problems);
    }
    for (size_t i = 0; i < node.items.size(); ++i) {
      const std::string item_path = path + "." + std::to_string(i);
      Item item;
      if (node.items[i].is_table()) {
        read_table(table, item, node.items[i], item_path, problems);
      } else {
        schema::report_not_table(node.items[i], item_path, "[[" + path + "]]", problems);
      }
      (options.*member).push_back(std::move(item));
    }
  };
  nested.write = [member, table](const Options& options, const std::string& path) {
    std::string text;
    for (const Item& item : options.*member) {
      text += "\n" + write_table(table, item, path, "[[" + path + "]]");
    }
    return text;
  };
  nested.describe = [table](const std::string& path) {
    return describe_table(table, path, "[[" + path + "]]");
  };
  return nested;
}

template <typename Options>
Section section(const std::string& name, Options Recipe::*member, const Table<Options>& table) {
  const std::string header = "[" + name + "]";
  Section section;
  section.name = name;
  section.tables = describe_table(table, name, header);
  section.read = [=](Recipe& recipe, const Node& root, Problems& problems) {
    const Node* const node = root.find(name);
    if (node && !node->is_table()) {
      return schema::report_not_table(*node, name, header, problems);
    }
    Node absent;
    absent.place = root.place;
    read_table(table, recipe.*member, node ? *node : absent, name, problems);
  };
  section.write = [=](const Recipe& recipe) {
    return write_table(table, recipe.*member, name, header);
  };
  return section;
}

}  // namespace sidewinder
