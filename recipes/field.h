#pragma once
// One line declares a key of a recipe:
//
//   field("steps", &TrainOptions::steps, "optimizer steps to run", {.at_least = 1}).required()
//
// and serves reading, checking, `recipe explain`, the reference page and the rules of resuming.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "recipes/node.h"

namespace sidewinder {

enum class ResumeRule : uint8_t { fixed, may_grow, may_change };

// A key has an effect only while another key of the same table has one of these values.
struct Condition {
  std::string key;
  std::vector<std::string> values;
};

// What is known of a key without knowing its struct.
struct FieldInfo {
  std::string key;
  std::string help;                  // with the unit
  // "integer", "number", "list of numbers", "true or false", "string"
  std::string type;
  std::string range;                 // "at least 1"; empty: any
  std::string default_value;         // as TOML
  std::vector<std::string> choices;  // the names of an enumeration
  std::vector<Condition> conditions;
  bool is_required = false;
  ResumeRule resume = ResumeRule::fixed;

  std::string wanted() const;  // "use an integer of at least 1"
};

enum class ReadResult { good, wrong_type, out_of_range, unknown_name };

template <typename Options>
struct Field : FieldInfo {
  std::function<ReadResult(Options&, const Node&)> read;
  std::function<std::string(const Options&)> text;  // the value as TOML
  std::function<void(Options& to, const Options& from)> copy;

  Field required() const {
    return with([](Field& f) { f.is_required = true; });
  }
  Field may_change_on_resume() const {
    return with([](Field& f) { f.resume = ResumeRule::may_change; });
  }
  Field may_grow_on_resume() const {
    return with([](Field& f) { f.resume = ResumeRule::may_grow; });
  }
  // Using the key while `other` has another value than one of these is an error.
  Field only_with(const std::string& other, const std::vector<std::string>& values) const {
    return with([&](Field& f) { f.conditions.push_back({other, values}); });
  }
  Field only_with(const std::string& other, const std::string& value) const {
    return only_with(other, std::vector<std::string>{value});
  }

 private:
  template <typename Change>
  Field with(const Change& change) const {
    Field changed = *this;
    change(changed);
    return changed;
  }
};

template <typename Number>
struct Range {
  std::optional<Number> at_least = {};
  std::optional<Number> at_most = {};
  std::optional<Number> above = {};
  std::optional<Number> below = {};

  bool holds(Number value) const {
    return !(at_least && value < *at_least) && !(at_most && value > *at_most) &&
           !(above && value <= *above) && !(below && value >= *below);
  }
  std::string text() const;
};

namespace schema {

// The parts that do not depend on the struct; field.cpp.
ReadResult read_integer(const Node& node, const Range<int64_t>& range, int64_t& value);
ReadResult read_number(const Node& node, const Range<double>& range, double& value);
ReadResult read_numbers(const Node& node, const Range<double>& range, std::vector<double>& values);
std::string numbers_text(const std::vector<double>& values);
ReadResult read_boolean(const Node& node, bool& value);
ReadResult read_string(const Node& node, std::string& value);
ReadResult read_integers(const Node& node, const Range<int64_t>& range,
                         std::vector<int64_t>& values);
std::string integers_text(const std::vector<int64_t>& values);
std::optional<size_t> read_choice(const Node& node, const std::vector<std::string>& choices,
                                  ReadResult& result);
template <typename Options, typename Member>
Field<Options> plain_field(const std::string& key, Member Options::*member, const std::string& help,
                           const std::string& type) {
  Field<Options> field;
  field.key = key;
  field.help = help;
  field.type = type;
  field.copy = [member](Options& to, const Options& from) { to.*member = from.*member; };
  return field;
}

}  // namespace schema

template <typename Options>
Field<Options> field(const std::string& key, int64_t Options::*member, const std::string& help,
                     const Range<int64_t>& range = {}) {
  auto field = schema::plain_field(key, member, help, "integer");
  field.range = range.text();
  field.read = [member, range](Options& options, const Node& node) {
    return schema::read_integer(node, range, options.*member);
  };
  field.text = [member](const Options& options) { return std::to_string(options.*member); };
  field.default_value = field.text(Options{});
  return field;
}

template <typename Options>
Field<Options> field(const std::string& key, uint64_t Options::*member, const std::string& help) {
  auto field = schema::plain_field(key, member, help, "integer");
  const Range<int64_t> range{.at_least = 0};
  field.range = range.text();
  field.read = [member, range](Options& options, const Node& node) {
    int64_t value = 0;
    const ReadResult result = schema::read_integer(node, range, value);
    if (result == ReadResult::good) options.*member = static_cast<uint64_t>(value);
    return result;
  };
  field.text = [member](const Options& options) { return std::to_string(options.*member); };
  field.default_value = field.text(Options{});
  return field;
}

// A list, perhaps empty, each member within the range.
template <typename Options>
Field<Options> field(const std::string& key, std::vector<int64_t> Options::*member,
                     const std::string& help, const Range<int64_t>& range = {}) {
  auto field = schema::plain_field(key, member, help, "list of integers");
  field.range = range.text();
  field.read = [member, range](Options& options, const Node& node) {
    return schema::read_integers(node, range, options.*member);
  };
  field.text = [member](const Options& options) { return schema::integers_text(options.*member); };
  field.default_value = field.text(Options{});
  return field;
}

template <typename Options>
Field<Options> field(const std::string& key, double Options::*member, const std::string& help,
                     const Range<double>& range = {}) {
  auto field = schema::plain_field(key, member, help, "number");
  field.range = range.text();
  field.read = [member, range](Options& options, const Node& node) {
    return schema::read_number(node, range, options.*member);
  };
  field.text = [member](const Options& options) { return toml_number(options.*member); };
  field.default_value = field.text(Options{});
  return field;
}

// `range` is that of each number.
template <typename Options>
Field<Options> field(const std::string& key, std::vector<double> Options::*member,
                     const std::string& help, const Range<double>& range = {}) {
  auto field = schema::plain_field(key, member, help, "list of numbers");
  field.range = range.text();
  field.read = [member, range](Options& options, const Node& node) {
    return schema::read_numbers(node, range, options.*member);
  };
  field.text = [member](const Options& options) { return schema::numbers_text(options.*member); };
  field.default_value = field.text(Options{});
  return field;
}

template <typename Options>
Field<Options> field(const std::string& key, bool Options::*member, const std::string& help) {
  auto field = schema::plain_field(key, member, help, "true or false");
  field.read = [member](Options& options, const Node& node) {
    return schema::read_boolean(node, options.*member);
  };
  field.text = [member](const Options& options) { return options.*member ? "true" : "false"; };
  field.default_value = field.text(Options{});
  return field;
}

template <typename Options>
Field<Options> field(const std::string& key, std::string Options::*member,
                     const std::string& help) {
  auto field = schema::plain_field(key, member, help, "string");
  field.read = [member](Options& options, const Node& node) {
    return schema::read_string(node, options.*member);
  };
  field.text = [member](const Options& options) { return toml_string(options.*member); };
  field.default_value = field.text(Options{});
  return field;
}

template <typename Options, typename Enum>
requires std::is_enum_v<Enum> Field<Options> field(
    const std::string& key, Enum Options::*member, const std::string& help,
    const std::type_identity_t<std::vector<std::pair<std::string, Enum>>>& names) {
  auto field = schema::plain_field(key, member, help, "string");
  std::vector<Enum> values;
  for (const auto& [name, value] : names) {
    field.choices.push_back(name);
    values.push_back(value);
  }
  field.read = [member, values, choices = field.choices](Options& options, const Node& node) {
    ReadResult result = ReadResult::good;
    if (const auto index = schema::read_choice(node, choices, result)) {
      options.*member = values[*index];
    }
    return result;
  };
  field.text = [member, names](const Options& options) {
    for (const auto& [name, value] : names) {
      if (options.*member == value) return toml_string(name);
    }
    return std::string("\"?\"");
  };
  field.default_value = field.text(Options{});
  return field;
}

}  // namespace sidewinder
