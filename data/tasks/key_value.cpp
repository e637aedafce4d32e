// Key-value retrieval of "Lost in the Middle" (Liu et al. 2023): a JSON object of random pairs, one
// of which is asked for; the depth says where it stands.
#include <fmt/core.h>

#include <cmath>
#include <set>

#include "data/tasks/prompt.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

class KeyValue : public TextTask {
 public:
  KeyValue(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : TextTask(kind, settings, source) {
    const SettingReader reader(label_, settings);
    pairs_ = reader.integer("pairs", 0, 0, 1000000);
    aware_ = reader.boolean("aware", false);
    items_ = reader.word("items", "uuids", {"uuids", "numbers"});
    digits_ = reader.integer("digits", 7, 3, 18);
    // So many that finding another number is easy.
    const double numbers = 0.9 * std::pow(10.0, static_cast<double>(digits_));
    most_ = items_ == "uuids" ? INT64_MAX / 2 : static_cast<int64_t>(numbers / 8);
    SIDEWINDER_REQUIRE(pairs_ <= most_,
                       "{}: numbers of {} digits make at most {} pairs; set more digits", label_,
                       digits_, most_);
  }

  TaskExample example(int64_t length, double depth, int64_t sample) const override {
    Draws draws(source_, label_, length, depth, sample);
    const std::string key = item(draws);
    const std::string value = item(draws);
    const Draws others = draws;
    const int64_t new_tokens = answer_tokens(source_, " \"" + value + "\"");
    const int64_t least = std::max<int64_t>(1, pairs_);
    const FittedPrompt prompt =
        fit_prompt(source_, label_, length, new_tokens, least, pairs_ == 0 ? most_ : pairs_,
                   [&](int64_t pairs) { return prompt_of(key, value, pairs, depth, others); });
    TaskExample example;
    example.tokens = prompt.tokens;
    example.new_tokens = new_tokens;
    example.references = {value};
    example.depth = depth;
    example.prompt = prompt.text;
    example.answer = " \"" + value + "\"";
    const auto begin = static_cast<int64_t>(prompt.text.size()) + 2;
    example.answers = {{begin, begin + static_cast<int64_t>(value.size())}};
    return example;
  }

 private:
  std::string item(Draws& draws) const {
    return items_ == "uuids" ? draws.uuid() : draws.digits(digits_);
  }

  std::string prompt_of(const std::string& key, const std::string& value, int64_t pairs,
                        double depth, Draws draws) const {
    const auto index = static_cast<int64_t>(std::llround(depth * static_cast<double>(pairs - 1)));
    // The pair asked for shares neither key nor value with any other.
    std::set<std::string> seen = {key, value};
    std::string records;
    for (int64_t i = 0; i < pairs; ++i) {
      std::string other_key = key;
      std::string other_value = value;
      while (i != index && !seen.insert(other_key).second) other_key = item(draws);
      while (i != index && !seen.insert(other_value).second) other_value = item(draws);
      records += fmt::format("{}\"{}\": \"{}\"", i == 0 ? "{" : ",\n ", other_key, other_value);
    }
    const std::string asked = fmt::format("Key: \"{}\"\n", key);
    return "Extract the value corresponding to the specified key in the JSON object below.\n\n" +
           (aware_ ? asked + "\n" : "") + "JSON data:\n" + records + "}\n\n" + asked +
           "Corresponding value:";
  }

  int64_t pairs_ = 0;
  bool aware_ = false;
  std::string items_;
  int64_t digits_ = 7;
  int64_t most_ = 0;  // pairs
};

}  // namespace

std::unique_ptr<Task> make_key_value(const TaskKind& kind, const TaskSettings& settings,
                                     const TaskSource& source) {
  return std::make_unique<KeyValue>(kind, settings, source);
}

}  // namespace sidewinder
