// The passkey test as YaRN's evaluation words it (Mohtashami and Jaggi 2023; Peng et al. 2023): an
// instruction, filler, one line that says a number twice, filler, and the beginning of the answer.
#include <fmt/core.h>

#include <cmath>

#include "data/tasks/prompt.h"
#include "data/tasks/score.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

class Passkey : public TextTask {
 public:
  Passkey(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : TextTask(kind, settings, source) {
    const SettingReader reader(label_, settings);
    most_ = reader.integer("most", 50000, 1, 1000000000000);
    instruction_ = reader.boolean("instruction", true);
  }

  TaskExample example(int64_t length, double depth, int64_t sample) const override {
    constexpr int64_t kNewTokens = 10;
    Draws draws(source_, label_, length, depth, sample);
    const std::string key = std::to_string(draws.between(1, most_));
    const std::string needle =
        fmt::format("The pass key is {0}. Remember it. {0} is the pass key.", key);
    const Haystack filler(source_, true, draws);
    const std::string head =
        instruction_
            ? "There is an important info hidden inside a lot of irrelevant text. Find it and "
              "memorize them. I will quiz you about the important information there.\n"
            : "";
    const FittedPrompt prompt =
        fit_prompt(source_, label_, length, kNewTokens, 0, INT64_MAX / 2, [&](int64_t bytes) {
          // Both parts of the filler start with its first sentence.
          const auto before =
              static_cast<int64_t>(std::llround(depth * static_cast<double>(bytes)));
          return head + filler.first(before) + "\n" + needle + "\n" + filler.first(bytes - before) +
                 "\nWhat is the pass key? The pass key is";
        });
    TaskExample example;
    example.tokens = prompt.tokens;
    example.new_tokens = kNewTokens;
    example.references = {key};
    example.depth = depth;
    example.prompt = prompt.text;
    example.answer = " " + key + ".";
    const auto begin = static_cast<int64_t>(prompt.text.size()) + 1;
    example.answers = {{begin, begin + static_cast<int64_t>(key.size())}};
    return example;
  }

  double score(const TaskExample& example, std::string_view completion) const override {
    const std::optional<int64_t> found = first_integer(completion);
    return found && *found == first_integer(example.references[0]) ? 1 : 0;
  }

  bool decided(const TaskExample&, std::string_view completion) const override {
    // The first number has ended.
    const size_t begin = completion.find_first_of("0123456789");
    return begin != std::string_view::npos &&
           completion.find_first_not_of("0123456789", begin) != std::string_view::npos;
  }

 private:
  int64_t most_ = 0;
  bool instruction_ = true;
};

}  // namespace

std::unique_ptr<Task> make_passkey(const TaskKind& kind, const TaskSettings& settings,
                                   const TaskSource& source) {
  return std::make_unique<Passkey>(kind, settings, source);
}

}  // namespace sidewinder
