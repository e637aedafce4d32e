#pragma once
// A TOML value and where it was written, independent of the TOML library.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sidewinder {

struct Place {
  std::string source;  // a file name, or the whole argument "--set key=value"
  int line = 0;        // from 1; 0: the source as a whole
  int column = 0;      // from 1
  int precedence = 0;  // of the source: extended files are below 0, the recipe is 0, --set above

  std::string text() const;  // "file:line:column" or "file"
};

struct Node {
  enum class Kind { boolean, integer, number, string, array, table, date };

  Kind kind = Kind::table;
  bool boolean = false;
  int64_t integer = 0;
  double number = 0.0;
  std::string string;
  std::vector<Node> items;  // of an array; of a table, each with its key

  std::string key;  // within the enclosing table
  Place place;      // of the value
  Place key_place;  // of the key

  bool is_table() const { return kind == Kind::table; }
  const Node* find(std::string_view name) const;  // in a table; null: absent
  Node* find(std::string_view name);

  std::string value_text() const;  // as TOML would write it
  std::string kind_text() const;   // "a string", "an integer", …
};

// Lays `over` on `base`, in place: tables are merged key by key, anything else is replaced.
void overlay(Node& base, const Node& over);

// A double as TOML: the shortest text that reads back as the same value, never like an integer.
std::string toml_number(double value);
// A string as TOML, in quotes.
std::string toml_string(std::string_view text);

}  // namespace sidewinder
