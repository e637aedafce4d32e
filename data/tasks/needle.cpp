// Needles in a haystack: sentences that give a word a number, hidden in text, and a question that
// begins its own answer. Two ways to place them: `niah` at a depth of characters, as Kamradt's tool
// (2023) does; RULER's tasks (Hsieh et al. 2024) at random places between sentences.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "data/tasks/prompt.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr int kAttempts = 100;

const std::vector<std::string> kItems = {"words", "numbers", "uuids"};

std::string draw_item(Draws& draws, const std::string& kind) {
  if (kind == "words") return draws.word();
  return kind == "uuids" ? draws.uuid() : draws.digits(7);
}

// "a", "a, and b", "a, b, and c", as RULER joins queries.
std::string joined(const std::vector<std::string>& words) {
  std::string text = words[0];
  for (size_t i = 1; i < words.size(); ++i) {
    text += (i + 1 == words.size() ? ", and " : ", ") + words[i];
  }
  return text;
}

struct Needle {
  std::string key;
  std::string value;
  std::string sentence;
};

// The text with the sentence of every needle before the place of that number, in ascending order.
std::string with_needles(const std::string& text, const std::vector<Needle>& needles,
                         const std::vector<size_t>& places) {
  std::string result;
  size_t done = 0;
  for (size_t i = 0; i < needles.size(); ++i) {
    result += text.substr(done, places[i] - done);
    if (!result.empty() && result.back() != ' ') result += ' ';
    result += needles[i].sentence;
    if (places[i] < text.size()) result += ' ';
    done = places[i];
  }
  return result + text.substr(done);
}

class NeedleTask : public TextTask {
 protected:
  using TextTask::TextTask;

  Needle draw_needle(Draws& draws) const { return with_key(draws, draw_item(draws, keys_)); }
  Needle with_key(Draws& draws, const std::string& key) const {
    const std::string value = draw_item(draws, values_);
    return {key, value,
            fmt::format("One of the special magic {} for {} is: {}.", values_, key, value)};
  }
  // So many needles with different keys.
  std::vector<Needle> draw_needles(Draws& draws, int64_t count) const {
    std::vector<Needle> needles;
    std::set<std::string> seen;
    while (static_cast<int64_t>(needles.size()) < count) {
      const Needle needle = draw_needle(draws);
      if (seen.insert(needle.key).second) needles.push_back(needle);
    }
    return needles;
  }

  // RULER's wording; the prompt ends where the answer begins. One value is asked in the singular.
  std::string head(bool one) const {
    return one ? fmt::format(
                     "A special magic {0} is hidden within the following text. Make sure to "
                     "memorize it. I will quiz you about the {0} afterwards.\n",
                     singular())
               : fmt::format(
                     "Some special magic {0} are hidden within the following text. Make sure "
                     "to memorize it. I will quiz you about the {0} afterwards.\n",
                     values_);
  }
  std::string question(bool one, const std::vector<std::string>& queries) const {
    const std::string query = joined(queries);
    return one ? fmt::format(
                     "\nWhat is the special magic {0} for {1} mentioned in the provided text? "
                     "The special magic {0} for {1} mentioned in the provided text is",
                     singular(), query)
               : fmt::format(
                     "\nWhat are all the special magic {0} for {1} mentioned in the provided "
                     "text? The special magic {0} for {1} mentioned in the provided text are",
                     values_, query);
  }
  std::string singular() const { return values_.substr(0, values_.size() - 1); }

  static std::string answer_text(const std::vector<std::string>& values) {
    return " " + joined(values) + ".";
  }

  // Whether every needle stands in the text once, and its value nowhere else but in the needle.
  static bool each_once(const std::string& prompt, const std::vector<Needle>& needles) {
    return std::all_of(needles.begin(), needles.end(), [&](const Needle& needle) {
      return occurrences(prompt, needle.sentence) == 1 && occurrences(prompt, needle.value) == 1;
    });
  }

  TaskExample finish(const FittedPrompt& prompt, int64_t new_tokens, double depth,
                     const std::vector<std::string>& values) const {
    TaskExample example;
    example.tokens = prompt.tokens;
    example.new_tokens = new_tokens;
    example.references = values;
    example.depth = depth;
    example.prompt = prompt.text;
    example.answer = answer_text(values);
    const std::string all = example.prompt + example.answer;
    size_t at = example.prompt.size();
    for (const std::string& value : values) {
      at = all.find(value, at);
      example.answers.emplace_back(at, at + value.size());
      at += value.size();
    }
    return example;
  }

  std::string keys_ = "words";
  std::string values_ = "numbers";
};

class NeedleInHaystack : public NeedleTask {
 public:
  NeedleInHaystack(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : NeedleTask(kind, settings, source) {
    const SettingReader reader(label_, settings);
    needles_ = reader.integer("needles", 1, 1, 1000);
    queries_ = reader.integer("queries", 1, 1, 1000);
    SIDEWINDER_REQUIRE(queries_ <= needles_,
                       "{} asks for {} needles but hides {}; queries must be at most needles",
                       label_, queries_, needles_);
    keys_ = reader.word("keys", "words", kItems);
    values_ = reader.word("values", "numbers", kItems);
    noise_ = reader.word("haystack", source.haystack.empty() ? "noise" : "text",
                         {"noise", "text"}) == "noise";
    SIDEWINDER_REQUIRE(noise_ || !source.haystack.empty(),
                       "{} hides its needles in text; pass --haystack FILE or FOLDER, or set "
                       "haystack=noise",
                       label_);
  }

  TaskExample example(int64_t length, double depth, int64_t sample) const override {
    Draws draws(source_, label_, length, depth, sample);
    // The same text for all depths, so that they can be compared.
    Draws text_draws(source_, label_ + "/text", length, 0, sample);
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const std::vector<Needle> needles = draw_needles(draws, needles_);
      // The first needle is at the depth and is always asked for.
      std::vector<std::string> queries;
      std::vector<std::string> values;
      for (const int64_t i : asked(draws)) {
        queries.push_back(needles[static_cast<size_t>(i)].key);
        values.push_back(needles[static_cast<size_t>(i)].value);
      }
      const bool one = queries.size() == 1;
      const Haystack haystack(source_, noise_, text_draws);
      const int64_t new_tokens = answer_tokens(source_, answer_text(values));
      const FittedPrompt prompt =
          fit_prompt(source_, label_, length, new_tokens, 0, INT64_MAX / 2, [&](int64_t bytes) {
            return head(one) + hidden(haystack.first(bytes), needles, depth) +
                   question(one, queries);
          });
      if (each_once(prompt.text, needles)) return finish(prompt, new_tokens, depth, values);
    }
    fail_user("{}: the numbers drawn stand in the haystack {} times in a row; use other text",
              label_, kAttempts);
  }

 private:
  // Which needles are asked for, in random order.
  std::vector<int64_t> asked(Draws& draws) const {
    std::vector<int64_t> result = {0};
    for (const int64_t i : draws.distinct(queries_ - 1, needles_ - 1)) result.push_back(i + 1);
    draws.shuffle(result);
    return result;
  }

  // The first needle at `depth` of the text, the others at equal steps of what is left, each moved
  // back to the beginning of a sentence.
  std::string hidden(const std::string& text, const std::vector<Needle>& needles,
                     double depth) const {
    std::vector<size_t> places;
    for (size_t i = 0; i < needles.size(); ++i) {
      const double share =
          depth + (1 - depth) * static_cast<double>(i) / static_cast<double>(needles.size());
      const auto at = static_cast<size_t>(share * static_cast<double>(text.size()));
      places.push_back(sentence_start(text, at));
    }
    return with_needles(text, needles, places);
  }

  int64_t needles_ = 1;
  int64_t queries_ = 1;
  bool noise_ = true;
};

// RULER's eight variants.
struct RulerNeedles {
  const char* name;
  const char* haystack;  // noise, text, or needles
  const char* keys;
  const char* values;
  int64_t num_keys;
  int64_t num_values;  // of each key
  int64_t num_queries;
};
constexpr RulerNeedles kRulerNeedles[] = {
    {"niah_single_1", "noise", "words", "numbers", 1, 1, 1},
    {"niah_single_2", "text", "words", "numbers", 1, 1, 1},
    {"niah_single_3", "text", "words", "uuids", 1, 1, 1},
    {"niah_multikey_1", "text", "words", "numbers", 4, 1, 1},
    {"niah_multikey_2", "needles", "words", "numbers", 1, 1, 1},
    {"niah_multikey_3", "needles", "uuids", "uuids", 1, 1, 1},
    {"niah_multivalue", "text", "words", "numbers", 1, 4, 1},
    {"niah_multiquery", "text", "words", "numbers", 4, 1, 4},
};

class RulerNeedle : public NeedleTask {
 public:
  RulerNeedle(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : NeedleTask(kind, settings, source),
        variant_(
            *std::find_if(std::begin(kRulerNeedles), std::end(kRulerNeedles),
                          [&](const RulerNeedles& variant) { return kind.name == variant.name; })) {
    keys_ = variant_.keys;
    values_ = variant_.values;
    new_tokens_ = SettingReader(label_, settings).integer("answer_tokens", 128, 1, 100000);
    SIDEWINDER_REQUIRE(std::string(variant_.haystack) != "text" || !source.haystack.empty(),
                       "{} hides its needles in text; pass --haystack FILE or FOLDER", label_);
  }

  bool has_depth() const override { return false; }

  TaskExample example(int64_t length, double, int64_t sample) const override {
    Draws draws(source_, label_, length, 0, sample);
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      std::vector<Needle> needles;
      for (const Needle& first : draw_needles(draws, variant_.num_keys)) {
        needles.push_back(first);
        for (int64_t i = 1; i < variant_.num_values; ++i)
          needles.push_back(with_key(draws, first.key));
      }
      std::vector<std::string> queries;
      std::vector<std::string> values;
      for (const int64_t i : draws.distinct(variant_.num_queries, variant_.num_keys)) {
        const auto first = static_cast<size_t>(i * variant_.num_values);
        queries.push_back(needles[first].key);
        for (size_t k = 0; k < static_cast<size_t>(variant_.num_values); ++k) {
          values.push_back(needles[first + k].value);
        }
      }
      std::vector<Needle> order = needles;
      draws.shuffle(order);
      const bool one = values.size() == 1;
      const Draws places = draws;
      const Haystack haystack(source_, std::string(variant_.haystack) != "text", draws);
      const FittedPrompt prompt =
          fit_prompt(source_, label_, length, new_tokens_, static_cast<int64_t>(needles.size()),
                     INT64_MAX / 2, [&](int64_t units) {
                       return head(one) +
                              (std::string(variant_.haystack) == "text"
                                   ? in_text(haystack, units, order, places)
                                   : in_lines(units, order, places)) +
                              question(one, queries);
                     });
      // A distractor must not have the key that is asked for.
      const bool unique = std::all_of(queries.begin(), queries.end(), [&](const std::string& key) {
        return occurrences(prompt.text, " for " + key + " is: ") == variant_.num_values;
      });
      if (unique && each_once(prompt.text, needles)) return finish(prompt, new_tokens_, 0, values);
    }
    fail_user("{}: keys or values stand in the haystack {} times in a row; use other text", label_,
              kAttempts);
  }

 private:
  // Text of so many words; each needle before a random one of its sentences (40 depths).
  static std::string in_text(const Haystack& haystack, int64_t words,
                             const std::vector<Needle>& needles, Draws draws) {
    const std::string text = haystack.words(words);
    std::vector<size_t> starts = {0};
    for (size_t at = 1; at < text.size(); ++at) {
      if (starts_sentence(text, at)) starts.push_back(at);
    }
    std::vector<int64_t> depths = draws.distinct(static_cast<int64_t>(needles.size()), 40);
    std::sort(depths.begin(), depths.end());
    std::vector<size_t> places;
    for (const int64_t depth : depths) {
      const auto sentence = static_cast<size_t>(depth) * starts.size() / 39;
      places.push_back(sentence < starts.size() ? starts[sentence] : text.size());
    }
    return with_needles(text, needles, places);
  }

  // Lines of noise, or of other needles, with the needles between them.
  std::string in_lines(int64_t count, const std::vector<Needle>& needles, Draws draws) const {
    std::vector<int64_t> places = draws.distinct(static_cast<int64_t>(needles.size()), count);
    std::sort(places.begin(), places.end());
    std::string result;
    size_t next = 0;
    for (int64_t line = 0; line < count; ++line) {
      if (next < needles.size() && places[next] == line) {
        result += (result.empty() ? "" : "\n") + needles[next++].sentence;
      }
      const std::string other = std::string(variant_.haystack) == "noise"
                                    ? std::string(kNoise)
                                    : draw_needle(draws).sentence;
      result += (result.empty() ? "" : "\n") + other;
    }
    return result;
  }

  const RulerNeedles& variant_;
  int64_t new_tokens_ = 128;
};

}  // namespace

std::unique_ptr<Task> make_needle(const TaskKind& kind, const TaskSettings& settings,
                                  const TaskSource& source) {
  return std::make_unique<NeedleInHaystack>(kind, settings, source);
}

std::unique_ptr<Task> make_ruler_needle(const TaskKind& kind, const TaskSettings& settings,
                                        const TaskSource& source) {
  return std::make_unique<RulerNeedle>(kind, settings, source);
}

}  // namespace sidewinder
