#include "recipes/node.h"

#include <fmt/format.h>

#include <cmath>

namespace sidewinder {

std::string Place::text() const {
  return line == 0 ? source : fmt::format("{}:{}:{}", source, line, column);
}

const Node* Node::find(std::string_view name) const {
  for (const Node& item : items) {
    if (item.key == name) return &item;
  }
  return nullptr;
}

Node* Node::find(std::string_view name) {
  return const_cast<Node*>(static_cast<const Node*>(this)->find(name));
}

std::string Node::value_text() const {
  switch (kind) {
    case Kind::boolean: return boolean ? "true" : "false";
    case Kind::integer: return std::to_string(integer);
    case Kind::number: return toml_number(number);
    case Kind::string: return toml_string(string);
    case Kind::array: return items.empty() ? "[]" : "[…]";
    case Kind::table: return items.empty() ? "{}" : "{…}";
    case Kind::date: break;
  }
  return "this";
}

std::string Node::kind_text() const {
  switch (kind) {
    case Kind::boolean: return "a boolean";
    case Kind::integer: return "an integer";
    case Kind::number: return "a floating-point number";
    case Kind::string: return "a string";
    case Kind::array: return "a list";
    case Kind::table: return "a table";
    case Kind::date: break;
  }
  return "a date or time";
}

void overlay(Node& base, const Node& over) {
  if (!base.is_table() || !over.is_table()) {
    base = over;
    return;
  }
  if (over.place.precedence <= 0) {  // a table stays where a file has it, even if --set adds a key
    base.place = over.place;
    base.key_place = over.key_place;
  }
  for (const Node& item : over.items) {
    if (Node* const existing = base.find(item.key)) {
      overlay(*existing, item);
    } else {
      base.items.push_back(item);
    }
  }
}

std::string toml_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string toml_string(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      quoted += fmt::format("\\u{:04x}", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

}  // namespace sidewinder
