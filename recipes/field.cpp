#include "recipes/field.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "recipes/diagnostics.h"

namespace sidewinder {
namespace {

template <typename Number>
std::string range_text(const Range<Number>& range) {
  std::vector<std::string> parts;
  const auto part = [&](const char* words, const std::optional<Number>& limit) {
    if (limit) parts.push_back(fmt::format("{} {}", words, *limit));
  };
  part("above", range.above);
  part("at least", range.at_least);
  part("below", range.below);
  part("at most", range.at_most);
  return word_list(parts);
}

}  // namespace

template <>
std::string Range<int64_t>::text() const {
  return range_text(*this);
}

template <>
std::string Range<double>::text() const {
  return range_text(*this);
}

std::string FieldInfo::wanted() const {
  if (!choices.empty()) {
    return choices.size() == 1 ? "use " + toml_string(choices.front())
                               : "use one of " + word_list(quoted_names(choices), "or");
  }
  if (type == "true or false") return "use true or false";
  const std::string article = type == "integer" ? "an" : "a";
  const std::string noun = type == "string" ? "string in quotes" : type;
  const std::string link = range.empty() ? "" : range.substr(0, 2) == "at" ? " of " : " ";
  return fmt::format("use {} {}{}{}", article, noun, link, range);
}

namespace schema {

ReadResult read_integer(const Node& node, const Range<int64_t>& range, int64_t& value) {
  if (node.kind != Node::Kind::integer) return ReadResult::wrong_type;
  if (!range.holds(node.integer)) return ReadResult::out_of_range;
  value = node.integer;
  return ReadResult::good;
}

ReadResult read_integers(const Node& node, const Range<int64_t>& range,
                         std::vector<int64_t>& values) {
  if (node.kind != Node::Kind::array) return ReadResult::wrong_type;
  std::vector<int64_t> read;
  for (const Node& item : node.items) {
    const ReadResult result = read_integer(item, range, read.emplace_back());
    if (result != ReadResult::good) return result;
  }
  values = std::move(read);
  return ReadResult::good;
}

std::string integers_text(const std::vector<int64_t>& values) {
  std::string text;
  for (const int64_t value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return "[" + text + "]";
}

// An integer may stand for a number; infinity and NaN may not.
ReadResult read_number(const Node& node, const Range<double>& range, double& value) {
  const bool is_integer = node.kind == Node::Kind::integer;
  if (!is_integer && node.kind != Node::Kind::number) return ReadResult::wrong_type;
  const double number = is_integer ? static_cast<double>(node.integer) : node.number;
  if (!std::isfinite(number) || !range.holds(number)) return ReadResult::out_of_range;
  value = number;
  return ReadResult::good;
}

ReadResult read_numbers(const Node& node, const Range<double>& range, std::vector<double>& values) {
  if (node.kind != Node::Kind::array) return ReadResult::wrong_type;
  std::vector<double> read;
  for (const Node& item : node.items) {
    const ReadResult result = read_number(item, range, read.emplace_back());
    if (result != ReadResult::good) return result;
  }
  values = std::move(read);
  return ReadResult::good;
}

std::string numbers_text(const std::vector<double>& values) {
  std::string text;
  for (const double value : values) text += (text.empty() ? "" : ", ") + toml_number(value);
  return "[" + text + "]";
}

ReadResult read_boolean(const Node& node, bool& value) {
  if (node.kind != Node::Kind::boolean) return ReadResult::wrong_type;
  value = node.boolean;
  return ReadResult::good;
}

ReadResult read_string(const Node& node, std::string& value) {
  if (node.kind != Node::Kind::string) return ReadResult::wrong_type;
  value = node.string;
  return ReadResult::good;
}

std::optional<size_t> read_choice(const Node& node, const std::vector<std::string>& choices,
                                  ReadResult& result) {
  result = ReadResult::wrong_type;
  if (node.kind != Node::Kind::string) return std::nullopt;
  const auto found = std::find(choices.begin(), choices.end(), node.string);
  result = found == choices.end() ? ReadResult::unknown_name : ReadResult::good;
  if (found == choices.end()) return std::nullopt;
  return static_cast<size_t>(found - choices.begin());
}

}  // namespace schema
}  // namespace sidewinder
