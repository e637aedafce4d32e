// RULER's tasks that are not about needles (Hsieh et al. 2024): variable tracking (vt), common
// words (cwe) and frequent words (fwe), worded as published. The prompt ends where the answer
// begins.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#include "data/tasks/prompt.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

class RulerTask : public TextTask {
 public:
  bool has_depth() const override { return false; }

 protected:
  RulerTask(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source,
            int64_t answer_tokens)
      : TextTask(kind, settings, source) {
    new_tokens_ =
        SettingReader(label_, settings).integer("answer_tokens", answer_tokens, 1, 100000);
  }

  TaskExample finish(const FittedPrompt& prompt, const std::vector<std::string>& references,
                     const std::string& answer) const {
    TaskExample example;
    example.tokens = prompt.tokens;
    example.new_tokens = new_tokens_;
    example.references = references;
    example.prompt = prompt.text;
    example.answer = answer;
    const auto begin = static_cast<int64_t>(prompt.text.size());
    example.answers = {{begin, begin + static_cast<int64_t>(answer.size())}};
    return example;
  }

  int64_t new_tokens_ = 0;
};

std::string spaced(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// One chain of assignments hidden in lines of noise.
class VariableTracking : public RulerTask {
 public:
  VariableTracking(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : RulerTask(kind, settings, source, 30) {
    const SettingReader reader(label_, settings);
    hops_ = reader.integer("hops", 4, 1, 100);
    chains_ = reader.integer("chains", 1, 1, 100);
    shots_ = reader.integer("shots", 1, 0, 1);
  }

  TaskExample example(int64_t length, double, int64_t sample) const override {
    Draws draws(source_, label_, length, 0, sample);
    std::string shot;
    if (shots_ > 0) {
      // Shorter names, so that they cannot be mistaken for the ones asked for.
      const Chains chains = draw_chains(draws, 3);
      shot = prompt_of(chains, std::max<int64_t>(5, hops_ + 1), draws) + spaced(chains.names[0]) +
             "\n\n";
    }
    const Chains chains = draw_chains(draws, 5);
    const Draws places = draws;
    const FittedPrompt prompt =
        fit_prompt(source_, label_, length, new_tokens_, hops_ + 1, INT64_MAX / 2,
                   [&](int64_t lines) { return shot + prompt_of(chains, lines, places); });
    return finish(prompt, chains.names[0], spaced(chains.names[0]));
  }

 private:
  struct Chains {
    std::string value;                                 // of the first chain
    std::vector<std::vector<std::string>> names;       // [chains][hops + 1]
    std::vector<std::vector<std::string>> statements;  // [chains][hops + 1]
  };

  Chains draw_chains(Draws& draws, int64_t letters) const {
    Chains chains;
    std::set<std::string> seen;
    for (int64_t c = 0; c < chains_; ++c) {
      std::vector<std::string> names;
      while (static_cast<int64_t>(names.size()) <= hops_) {
        const std::string name = draws.letters(letters, 'A');
        if (seen.insert(name).second) names.push_back(name);
      }
      const std::string value = draws.digits(5);
      if (c == 0) chains.value = value;
      std::vector<std::string> statements = {"VAR " + names[0] + " = " + value};
      for (size_t i = 1; i < names.size(); ++i) {
        statements.push_back("VAR " + names[i] + " = VAR " + names[i - 1] + " ");
      }
      chains.names.push_back(names);
      chains.statements.push_back(statements);
    }
    return chains;
  }

  std::string prompt_of(const Chains& chains, int64_t lines, Draws draws) const {
    std::vector<std::string> text(static_cast<size_t>(lines), std::string(kNoise));
    for (const std::vector<std::string>& statements : chains.statements) {
      std::vector<int64_t> places = draws.distinct(static_cast<int64_t>(statements.size()),
                                                   static_cast<int64_t>(text.size()));
      std::sort(places.begin(), places.end());
      for (size_t i = 0; i < statements.size(); ++i) {
        text.insert(text.begin() + places[i] + static_cast<std::ptrdiff_t>(i), statements[i]);
      }
    }
    std::string context;
    for (const std::string& line : text) context += (context.empty() ? "" : "\n") + line;
    return fmt::format(
        "Memorize and track the chain(s) of variable assignment hidden in the following "
        "text.\n\n{0}\n"
        "Question: Find all variables that are assigned the value {1} in the text above. Answer: "
        "According to the chain(s) of variable assignment in the text above, {2} variables are "
        "assigned "
        "the value {1}, they are: ",
        context, chains.value, hops_ + 1);
  }

  int64_t hops_ = 4;
  int64_t chains_ = 1;
  int64_t shots_ = 1;
};

// A numbered list of words, ten of which are common.
class CommonWords : public RulerTask {
 public:
  CommonWords(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : RulerTask(kind, settings, source, 120) {
    const SettingReader reader(label_, settings);
    common_ = reader.integer("common", 10, 1, 1000);
    often_ = reader.integer("often", 30, 2, 10000);
    seldom_ = reader.integer("seldom", 3, 1, 10000);
    shots_ = reader.integer("shots", 1, 0, 1);
    SIDEWINDER_REQUIRE(often_ > seldom_, "{}: often is {} and seldom {}; often must be greater",
                       label_, often_, seldom_);
    std::set<std::string> words(adjectives().begin(), adjectives().end());
    words.insert(nouns().begin(), nouns().end());
    // Words of plain letters in the haystack, up to as many as a list of a million tokens needs.
    std::istringstream stream(source.haystack);
    for (std::string word; words.size() < 100000 && stream >> word;) {
      const bool plain =
          word.size() >= 3 && word.size() <= 12 &&
          std::all_of(word.begin(), word.end(), [](char c) { return c >= 'a' && c <= 'z'; });
      if (plain) words.insert(word);
    }
    words_.assign(words.begin(), words.end());
    SIDEWINDER_REQUIRE(common_ <= static_cast<int64_t>(words_.size()),
                       "{}: common is {} but there are only {} words", label_, common_,
                       words_.size());
  }

  TaskExample example(int64_t length, double, int64_t sample) const override {
    Draws draws(source_, label_, length, 0, sample);
    const std::vector<int64_t> order =
        draws.distinct(static_cast<int64_t>(words_.size()), static_cast<int64_t>(words_.size()));
    std::vector<std::string> words;
    words.reserve(order.size());
    for (const int64_t i : order) words.push_back(words_[static_cast<size_t>(i)]);
    std::string shot;
    if (shots_ > 0) {
      // Published: 40 words, the common ones ten times.
      std::vector<std::string> few = words;
      draws.shuffle(few);
      few.resize(std::min<size_t>(few.size(), 40));
      const std::string text = prompt_of(few, static_cast<int64_t>(few.size()), 10, 3, draws);
      shot = text + " " + answer_of(few) + "\n";
    }
    const Draws places = draws;
    const auto known = static_cast<int64_t>(words.size());
    const FittedPrompt prompt =
        fit_prompt(source_, label_, length, new_tokens_, common_, known, [&](int64_t distinct) {
          return shot + prompt_of(words, distinct, often_, seldom_, places);
        });
    SIDEWINDER_REQUIRE(
        prompt.units < known,
        "{} at length {} needs more than the {} different words that are known; pass "
        "(more) text with --haystack",
        label_, length, known);
    const std::vector<std::string> references(words.begin(),
                                              words.begin() + static_cast<std::ptrdiff_t>(common_));
    return finish(prompt, references, " " + answer_of(words));
  }

 private:
  std::string answer_of(const std::vector<std::string>& words) const {
    std::string text;
    for (size_t i = 0; i < static_cast<size_t>(common_) && i < words.size(); ++i) {
      text += fmt::format("{}{}. {}", i == 0 ? "" : " ", i + 1, words[i]);
    }
    return text;
  }

  std::string prompt_of(const std::vector<std::string>& words, int64_t distinct, int64_t often,
                        int64_t seldom, Draws draws) const {
    std::vector<size_t> list;
    for (int64_t i = 0; i < distinct; ++i) {
      list.insert(list.end(), static_cast<size_t>(i < common_ ? often : seldom),
                  static_cast<size_t>(i));
    }
    draws.shuffle(list);
    std::string context;
    for (size_t i = 0; i < list.size(); ++i) {
      context += fmt::format("{}{}. {}", i == 0 ? "" : " ", i + 1, words[list[i]]);
    }
    return fmt::format(
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize "
        "the ones that appear most often.\n{}\nQuestion: What are the {} most common words in the "
        "above "
        "list? Answer: The top {} words that appear most often in the list are:",
        context, common_, common_);
  }

  int64_t common_ = 10;
  int64_t often_ = 30;
  int64_t seldom_ = 3;
  int64_t shots_ = 1;
  std::vector<std::string> words_;
};

// Random words whose frequencies follow a zeta distribution; the most frequent one is shown as
// dots.
class FrequentWords : public RulerTask {
 public:
  FrequentWords(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : RulerTask(kind, settings, source, 50) {}

  TaskExample example(int64_t length, double, int64_t sample) const override {
    Draws draws(source_, label_, length, 0, sample);
    const int64_t vocabulary = std::max<int64_t>(8, length / 50);
    std::vector<std::string> words = {"..."};
    std::set<std::string> seen;
    while (static_cast<int64_t>(words.size()) < vocabulary) {
      const std::string word = draws.letters(6, 'a');
      if (seen.insert(word).second) words.push_back(word);
    }
    const Draws places = draws;
    // From 42 on the fourth rank is more frequent than the fifth, so that the answer is unique.
    const FittedPrompt prompt =
        fit_prompt(source_, label_, length, new_tokens_, 42, INT64_MAX / 2,
                   [&](int64_t count) { return prompt_of(words, count, places); });
    const std::vector<std::string> references(words.begin() + 1, words.begin() + 4);
    return finish(prompt, references,
                  " " + references[0] + ", " + references[1] + ", " + references[2]);
  }

 private:
  static std::string prompt_of(const std::vector<std::string>& words, int64_t count, Draws draws) {
    constexpr double kZeta2 = 1.6449340668482264365;  // π²/6
    std::vector<size_t> list;
    for (size_t i = 0; i < words.size(); ++i) {
      const double rank = static_cast<double>(i + 1);
      list.insert(list.end(),
                  static_cast<size_t>(static_cast<double>(count) / (rank * rank) / kZeta2), i);
    }
    draws.shuffle(list);
    std::string context;
    for (const size_t i : list) context += (context.empty() ? "" : " ") + words[i];
    return "Read the following coded text and track the frequency of each coded word. Find the "
           "three most "
           "frequently appeared coded words. " +
           context +
           "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are "
           "the three "
           "most frequently appeared words in the above coded text? Answer: According to the coded "
           "text "
           "above, the three most frequently appeared words are:";
  }
};

}  // namespace

std::unique_ptr<Task> make_variable_tracking(const TaskKind& kind, const TaskSettings& settings,
                                             const TaskSource& source) {
  return std::make_unique<VariableTracking>(kind, settings, source);
}

std::unique_ptr<Task> make_common_words(const TaskKind& kind, const TaskSettings& settings,
                                        const TaskSource& source) {
  return std::make_unique<CommonWords>(kind, settings, source);
}

std::unique_ptr<Task> make_frequent_words(const TaskKind& kind, const TaskSettings& settings,
                                          const TaskSource& source) {
  return std::make_unique<FrequentWords>(kind, settings, source);
}

}  // namespace sidewinder
