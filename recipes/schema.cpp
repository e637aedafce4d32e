#include "recipes/schema.h"

#include <algorithm>
#include <cctype>

namespace sidewinder {
namespace {

std::vector<std::string> split(std::string_view path) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t dot = std::min(path.find('.', begin), path.size());
    parts.emplace_back(path.substr(begin, dot - begin));
    begin = dot + 1;
  }
  return parts;
}

bool is_number(const std::string& part) {
  return !part.empty() &&
         std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c); });
}

// Whether `parts` without list numbers names what `pattern` says; "<letter>" is any one letter.
bool matches(std::vector<std::string> parts, const std::string& pattern) {
  parts.erase(std::remove_if(parts.begin(), parts.end(), is_number), parts.end());
  const std::vector<std::string> wanted = split(pattern);
  return std::equal(parts.begin(), parts.end(), wanted.begin(), wanted.end(),
                    [](const std::string& part, const std::string& want) {
                      return part == want || (want == "<letter>" && part.size() == 1);
                    });
}

}  // namespace

SchemaKey find_schema_key(std::string_view path) {
  const std::vector<std::string> parts = split(path);
  for (const Section& section : sections()) {
    for (const TableInfo& table : section.tables) {
      for (const FieldInfo& field : table.fields) {
        if (matches(parts, schema::child(table.path, field.key))) return {&table, &field};
      }
    }
  }
  return {nullptr, nullptr};
}

const TableInfo* find_schema_table(std::string_view path) {
  const std::vector<std::string> parts = split(path);
  for (const Section& section : sections()) {
    for (const TableInfo& table : section.tables) {
      if (matches(parts, table.path)) return &table;
    }
  }
  return nullptr;
}

}  // namespace sidewinder
