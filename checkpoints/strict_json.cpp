#include "checkpoints/strict_json.h"

#include <nlohmann/json.hpp>

#include <set>
#include <utility>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

// Builds the value from the parser's events. The parser itself does not recurse, so that depth
// costs no stack before it is refused here.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const StrictJsonLimits& limits) : limits_(limits) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return refuse("has binary data"); }

  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (!level.keys.insert(name).second)
      return refuse(fmt::format("has the key \"{}\" twice", name));
    if (levels_.size() == 1 && level.keys.size() > limits_.members) {
      return refuse(fmt::format("has more than {} entries", limits_.members));
    }
    level.key = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    (void)error;
    return refuse(fmt::format("is not valid JSON at byte {}", position));
  }

  const std::string& problem() const { return problem_; }
  Json take() { return std::move(result_); }

 private:
  struct Level {
    Json value;
    std::string key;             // where the next member goes
    std::set<std::string> keys;  // of an object
  };

  bool refuse(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
    return false;
  }

  bool add(Json value) {
    if (levels_.empty()) return refuse("is not an object");
    Level& level = levels_.back();
    if (level.value.is_array()) {
      level.value.push_back(std::move(value));
    } else {
      // Not by key, which would search: it is known to be new.
      level.value.get_ref<Json::object_t&>().Container::emplace_back(std::move(level.key),
                                                                     std::move(value));
    }
    return true;
  }

  bool open(Json value) {
    if (levels_.empty() && !value.is_object()) return refuse("is not an object");
    if (levels_.size() >= limits_.depth) {
      return refuse(fmt::format("is nested more than {} deep", limits_.depth));
    }
    levels_.push_back({std::move(value), {}, {}});
    return true;
  }

  bool close() {
    Json value = std::move(levels_.back().value);
    levels_.pop_back();
    if (levels_.empty()) {
      result_ = std::move(value);
      return true;
    }
    return add(std::move(value));
  }

  StrictJsonLimits limits_;
  std::vector<Level> levels_;
  Json result_;
  std::string problem_;
};

}  // namespace

Json parse_strict_json(std::string_view text, const std::string& where,
                       const StrictJsonLimits& limits) {
  Builder builder(limits);
  const bool good = Json::sax_parse(text.begin(), text.end(), &builder);
  if (!good || !builder.problem().empty()) {
    fail_environment("{} {}", where,
                     builder.problem().empty() ? "is not valid JSON" : builder.problem());
  }
  return builder.take();
}

}  // namespace sidewinder
