// Retrieval tasks: what every example must hold, for every kind of task and two tokenizers, and the
// published scores.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "data/files.h"
#include "data/tasks/draws.h"
#include "data/tasks/mqar.h"
#include "data/tasks/prompt.h"
#include "data/tasks/score.h"
#include "data/tasks/task.h"
#include "kernels/base/error.h"
#include "kernels/base/philox.h"
#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TemporaryFolder;

// English-like sentences of the tasks' own words, with characters of two and three bytes.
std::string sentences(int64_t count) {
  const Philox random(5, "sentences");
  uint64_t draw = 0;
  std::string text;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t length = 4 + random.below(draw++, 9);
    for (uint64_t k = 0; k < length; ++k) {
      const auto& words = random.below(draw++, 2) == 0 ? nouns() : adjectives();
      text += (k == 0 ? "" : " ") + words[random.below(draw++, words.size())];
    }
    text += i % 5 == 0 ? " naïve — so. \n" : ".  ";
  }
  return clean_haystack(text);
}

const Tokenizer& bytes() {
  static const Tokenizer tokenizer;
  return tokenizer;
}

// A SentencePiece model of 400 pieces, whose texts have about a token for 2.5 bytes.
const Tokenizer& pieces() {
  static const Tokenizer tokenizer = [] {
    std::vector<std::string> samples;
    const std::string text = sentences(400);
    for (size_t at = 0; at < text.size(); at += 1000)
      samples.push_back(text.substr(at, 1000) + "\n");
    for (std::string& sample : samples) {
      // Cut at spaces: samples must be whole characters.
      sample = sample.substr(sample.find(' '), sample.rfind(' ') - sample.find(' '));
    }
    return Tokenizer(train_tokenizer(samples, {.vocabulary = 400}), "trained for the test");
  }();
  return tokenizer;
}

TaskSource source_of(const Tokenizer& tokenizer) {
  TaskSource source;
  source.tokenizer = &tokenizer;
  source.vocabulary = tokenizer.vocabulary();
  source.haystack = sentences(3000);
  source.seed = 7;
  return source;
}

const TaskKind& kind_of(const std::string& name) {
  for (const TaskKind& kind : task_kinds()) {
    if (kind.name == name) return kind;
  }
  throw std::runtime_error("no task " + name);
}

std::unique_ptr<Task> make(const std::string& name, const TaskSource& source,
                           const TaskSettings& settings = {}) {
  return make_task(kind_of(name), settings, source);
}

// Answers by looking for the words around what is asked: the oracle of needle-like tasks.
std::string grep(const std::string& name, const std::string& prompt) {
  std::smatch match;
  const auto find = [&](const std::string& pattern) {
    return std::regex_search(prompt, match, std::regex(pattern)) ? match[1].str() : "";
  };
  if (name == "passkey") return " " + find("The pass key is (\\d+)\\. Remember it");
  if (name == "kv") {
    const std::string key = find("Key: \"([^\"]+)\"\nCorresponding value:$");
    return " " + find("\"" + key + "\": (\"[^\"]+\")");
  }
  if (name == "vt") {
    // Of the second, unsolved problem: follow the assignments.
    const size_t problem = prompt.rfind("Memorize and track");
    const std::string text = prompt.substr(problem);
    std::regex_search(text, match, std::regex("assigned the value (\\d+) in"));
    std::string held = match[1];
    std::string names;
    const std::regex assignment("VAR ([A-Z]+) = (VAR )?([A-Z0-9]+)");
    for (std::sregex_iterator i(text.begin(), text.end(), assignment), end; i != end; ++i) {
      if ((*i)[3] != held) continue;
      names += (*i)[1].str() + " ";
      held = (*i)[1];
    }
    return names;
  }
  if (name == "cwe" || name == "fwe") {
    const size_t begin = prompt.rfind(name == "cwe" ? "appear most often.\n" : "coded words. ");
    std::istringstream text(prompt.substr(begin, prompt.rfind("\nQuestion") - begin));
    std::map<std::string, int> counts;
    for (std::string word; text >> word;) ++counts[word];
    std::vector<std::pair<int, std::string>> order;
    order.reserve(counts.size());
    for (const auto& [word, count] : counts) order.emplace_back(-count, word);
    std::sort(order.begin(), order.end());
    std::string answer;
    size_t taken = 0;
    for (const auto& [count, word] : order) {
      if (word == "..." || taken == (name == "cwe" ? 10u : 3u)) continue;
      answer += word + " ";
      ++taken;
    }
    return answer;
  }
  // Needles: every value of every word that is asked for, in the order of the question.
  std::string query = find("special magic \\w+ for ([^?]*) mentioned in the provided text\\?");
  std::string answer;
  const std::regex key("[a-z0-9]+(-[a-z0-9]+)+");
  for (std::sregex_iterator i(query.begin(), query.end(), key), end; i != end; ++i) {
    const std::regex needle(" for " + i->str() + " is: ([^ .]+)\\.");
    for (std::sregex_iterator k(prompt.begin(), prompt.end(), needle); k != end; ++k) {
      answer += (*k)[1].str() + " ";
    }
  }
  return answer;
}

struct Asked {
  std::string name;
  TaskSettings settings;
  int64_t shortest;  // a length that bytes allow
};

std::vector<Asked> all_tasks() {
  return {{"passkey", {}, 300},
          {"passkey", {{"most", "999"}, {"instruction", "no"}}, 150},
          {"niah", {}, 420},
          {"niah", {{"haystack", "noise"}}, 420},
          {"niah", {{"needles", "4"}, {"queries", "3"}}, 900},
          {"niah", {{"keys", "uuids"}, {"values", "uuids"}}, 700},
          {"kv", {}, 500},
          {"kv", {{"items", "numbers"}, {"digits", "4"}, {"aware", "yes"}}, 400},
          {"niah_single_1", {}, 700},
          {"niah_single_2", {}, 700},
          {"niah_single_3", {}, 700},
          {"niah_multikey_1", {}, 900},
          {"niah_multikey_2", {}, 700},
          {"niah_multikey_3", {}, 900},
          {"niah_multivalue", {}, 900},
          {"niah_multiquery", {}, 1000},
          {"vt", {}, 2000},
          {"cwe", {}, 6500},
          {"fwe", {}, 700}};
}

constexpr double kDepths[] = {0, 0.1, 0.25, 0.5, 0.77, 1};

TEST(Tasks, EveryPromptAndAnswerFitTheLengthAndFillIt) {
  for (const Tokenizer* tokenizer : {&bytes(), &pieces()}) {
    const TaskSource source = source_of(*tokenizer);
    for (const Asked& asked : all_tasks()) {
      const auto task = make(asked.name, source, asked.settings);
      for (const int64_t length : {asked.shortest, asked.shortest + 1, 2 * asked.shortest + 37}) {
        for (const double depth : kDepths) {
          const TaskExample example = task->example(length, depth, 0);
          SCOPED_TRACE(asked.name + " at length " + std::to_string(length));
          const auto used = static_cast<int64_t>(example.tokens.size()) + example.new_tokens;
          EXPECT_LE(used, length);
          EXPECT_EQ(tokenizer->encode(example.prompt), example.tokens);
          // The answer itself can be given.
          EXPECT_GE(example.new_tokens,
                    static_cast<int64_t>(tokenizer->encode(example.references[0]).size()));
          // Cut by characters, by words, or by lines.
          if (asked.name == "passkey" || asked.name == "niah") {
            EXPECT_GE(used, length - (tokenizer->is_bytes() ? 2 : 3));
          } else if (asked.name != "cwe") {
            EXPECT_GE(used, length - 150);
          }
          if (!task->has_depth()) break;
        }
      }
    }
  }
}

TEST(Tasks, WhatIsAskedStandsInThePromptOnce) {
  const TaskSource source = source_of(pieces());
  for (const Asked& asked : all_tasks()) {
    if (asked.name == "vt" || asked.name == "cwe" || asked.name == "fwe") continue;
    const auto task = make(asked.name, source, asked.settings);
    for (size_t i = 0; i < 2 * std::size(kDepths); ++i) {
      const double depth = kDepths[i / 2];
      const int64_t length = asked.shortest + (i % 2 == 0 ? 0 : 2 * asked.shortest + 1);
      const TaskExample example = task->example(length, depth, 3);
      for (const std::string& reference : example.references) {
        const std::string needle = asked.name == "passkey" ? "The pass key is " + reference + "."
                                   : asked.name == "kv"    ? ": \"" + reference + "\""
                                                           : " is: " + reference + ".";
        EXPECT_EQ(occurrences(example.prompt, needle), 1) << asked.name << "\n" << example.prompt;
      }
      for (const auto& [begin, end] : example.answers) {
        const std::string text =
            (example.prompt + example.answer)
                .substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
        EXPECT_NE(std::find(example.references.begin(), example.references.end(), text),
                  example.references.end())
            << text;
      }
    }
  }
}

TEST(Tasks, DeeperMeansLater) {
  for (const Tokenizer* tokenizer : {&bytes(), &pieces()}) {
    const TaskSource source = source_of(*tokenizer);
    for (const std::string name : {"passkey", "niah", "kv"}) {
      const auto task = make(name, source);
      for (const int64_t length : {1200, 3000}) {
        double last = -1;
        for (int i = 0; i <= 10; ++i) {
          const double depth = i / 10.0;
          const TaskExample example = task->example(length, depth, 0);
          const size_t place = example.prompt.find(example.references[0]);
          const double share =
              static_cast<double>(place) / static_cast<double>(example.prompt.size());
          EXPECT_GT(share, last) << name << " " << i;
          last = share;
          if (name == "passkey" && length == 3000) {
            // Exactly there: the filler before the needle is that share of all filler.
            const size_t begin = example.prompt.find("\nThe pass key is");
            const size_t head = example.prompt.find('\n') + 1;
            const size_t needle = example.prompt.find("is the pass key.\n") + 17;
            const size_t question = example.prompt.rfind("\nWhat is");
            const double before = static_cast<double>(begin - head);
            const double after = static_cast<double>(question - needle);
            EXPECT_NEAR(before / (before + after), depth, 1e-3);
          }
        }
        EXPECT_GT(last, 0.6) << name;
      }
    }
  }
}

TEST(Tasks, AnExampleIsAFunctionOfItsPlace) {
  const TaskSource source = source_of(bytes());
  TaskSource other_seed = source;
  other_seed.seed = 8;
  TaskSource training = source;
  training.purpose = "training";
  for (const Asked& asked : all_tasks()) {
    const auto task = make(asked.name, source, asked.settings);
    const int64_t length = asked.shortest + 100;
    const TaskExample example = task->example(length, 0.5, 1);
    EXPECT_EQ(example.tokens,
              make(asked.name, source, asked.settings)->example(length, 0.5, 1).tokens);
    EXPECT_NE(example.tokens, task->example(length, 0.5, 2).tokens) << asked.name;
    EXPECT_NE(example.references,
              make(asked.name, other_seed, asked.settings)->example(length, 0.5, 1).references);
    EXPECT_NE(example.references,
              make(asked.name, training, asked.settings)->example(length, 0.5, 1).references);
  }
}

TEST(Tasks, AnOracleThatGrepsScoresFullAndARandomOneNothing) {
  const TaskSource source = source_of(bytes());
  const Philox random(3, "guesses");
  uint64_t draw = 0;
  for (const Asked& asked : all_tasks()) {
    const auto task = make(asked.name, source, asked.settings);
    double guessed = 0;
    int guesses = 0;
    for (const double depth : kDepths) {
      for (int64_t sample = 0; sample < 5; ++sample) {
        const TaskExample example = task->example(asked.shortest + 300, depth, sample);
        const std::string found = grep(asked.name, example.prompt) + ". ";
        EXPECT_EQ(task->score(example, found), 1) << asked.name << ": " << found << "\n"
                                                  << example.prompt;
        EXPECT_TRUE(task->decided(example, found));
        EXPECT_EQ(task->score(example, example.answer), 1) << asked.name;
        EXPECT_EQ(task->score(example, ""), 0);
        EXPECT_FALSE(task->decided(example, ""));
        std::string guess = " ";
        for (int64_t i = 0; i < example.new_tokens; ++i) {
          guess += static_cast<char>(' ' + random.below(draw++, 95));
        }
        guessed += task->score(example, guess);
        ++guesses;
      }
    }
    EXPECT_LT(guessed / guesses, 0.01) << asked.name;
  }
}

TEST(Tasks, PasskeyIsWordedAsPublished) {
  EXPECT_EQ(kNoise.size(), 89u);
  TaskSource source;
  source.tokenizer = &bytes();
  const TaskExample example = make("passkey", source)->example(500, 0.5, 0);
  const std::string key = example.references[0];
  const std::string expected =
      "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
      "them. I "
      "will quiz you about the important information there.\nThe grass is green. The sky is blue.";
  EXPECT_EQ(example.prompt.substr(0, expected.size()), expected);
  EXPECT_THAT(example.prompt, HasSubstr("\nThe pass key is " + key + ". Remember it. " + key +
                                        " is the pass key.\nThe grass is green."));
  EXPECT_THAT(example.prompt, ::testing::EndsWith("\nWhat is the pass key? The pass key is"));
  EXPECT_EQ(example.new_tokens, 10);
  const auto task = make("passkey", source);
  EXPECT_EQ(task->score(example, " " + key + ". Remember 1"), 1);
  EXPECT_EQ(task->score(example, " 1, no: " + key), 0);
  EXPECT_FALSE(task->decided(example, " " + key));
  EXPECT_TRUE(task->decided(example, " " + key + "."));
}

TEST(Tasks, KeyValueIsWordedAsPublished) {
  const TaskSource source = source_of(bytes());
  const TaskExample plain = make("kv", source, {{"pairs", "3"}})->example(1000, 1, 0);
  const std::string uuid = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
  EXPECT_TRUE(std::regex_match(
      plain.prompt,
      std::regex(
          "Extract the value corresponding to the specified key in the JSON object below.\n\n"
          "JSON data:\n\\{\"" +
          uuid + "\": \"" + uuid + "\",\n \"" + uuid + "\": \"" + uuid + "\",\n \"(" + uuid +
          ")\": \"" + plain.references[0] + "\"\\}\n\nKey: \"\\1\"\nCorresponding value:")))
      << plain.prompt;
  const TaskExample aware =
      make("kv", source, {{"pairs", "3"}, {"aware", "yes"}})->example(1000, 0, 0);
  EXPECT_THAT(aware.prompt, HasSubstr("below.\n\nKey: \""));
}

TEST(Tasks, NeedlesAreSpreadBehindTheFirst) {
  const TaskSource source = source_of(bytes());
  const TaskExample example =
      make("niah", source, {{"needles", "4"}, {"queries", "4"}})->example(8000, 0.2, 0);
  std::vector<double> places;
  for (const std::string& reference : example.references) {
    places.push_back(static_cast<double>(example.prompt.find(" is: " + reference)) /
                     static_cast<double>(example.prompt.size()));
  }
  std::sort(places.begin(), places.end());
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(places[i], 0.2 + 0.2 * static_cast<double>(i), 0.05);
}

TEST(Tasks, BosIsCounted) {
  TaskSource source = source_of(pieces());
  source.bos = true;
  const TaskExample example = make("passkey", source)->example(400, 0.5, 0);
  EXPECT_EQ(example.tokens[0], pieces().bos());
  EXPECT_LE(static_cast<int64_t>(example.tokens.size()) + example.new_tokens, 400);
  source.tokenizer = &bytes();
  EXPECT_THAT(message_of([&] { make("passkey", source); }), HasSubstr("has none"));
}

TEST(Tasks, RulerMetricsAndAverages) {
  const std::vector<std::string> references = {"7212345", "Blue-Hat"};
  EXPECT_EQ(contains_all("7212345 and blue-hat.", references), 1);
  EXPECT_EQ(contains_all("BLUE-HAT", references), 0.5);
  EXPECT_EQ(contains_all("721234", references), 0);
  EXPECT_EQ(first_integer(" is 0421. No, 7"), 421);
  EXPECT_EQ(first_integer("none"), std::nullopt);
  EXPECT_EQ(first_integer("123456789012345678901234567890"), std::nullopt);

  // A published row: 4K to 128K.
  const std::vector<double> scores = {95.5, 93.8, 91.6, 87.4, 84.7, 77.0};
  const LengthAverages averages = length_averages(scores);
  EXPECT_NEAR(averages.mean, 88.33, 0.005);
  EXPECT_NEAR(averages.increasing, 85.38, 0.005);
  EXPECT_NEAR(averages.decreasing, 91.29, 0.005);
  const std::vector<int64_t> lengths = {4096, 8192, 16384, 32768, 65536, 131072};
  EXPECT_EQ(effective_length(lengths, scores), 32768);
  EXPECT_EQ(effective_length(lengths, std::vector<double>(6, 10)), 0);
}

TEST(Tasks, MqarHasThePublishedStructure) {
  TaskSource source;
  source.vocabulary = 12;
  const auto task = make("mqar", source, {{"pairs", "2"}});
  std::set<std::vector<int32_t>> seen;
  for (int64_t sample = 0; sample < 50; ++sample) {
    const TaskExample example = task->example(16, 0, sample);
    ASSERT_EQ(example.tokens.size(), 16u);
    ASSERT_EQ(example.targets.size(), 16u);
    std::map<int32_t, int32_t> pairs;
    for (size_t i = 0; i < 4; i += 2) {
      EXPECT_GE(example.tokens[i], 1);
      EXPECT_LT(example.tokens[i], 6);
      EXPECT_GE(example.tokens[i + 1], 6);
      EXPECT_LT(example.tokens[i + 1], 12);
      pairs[example.tokens[i]] = example.tokens[i + 1];
      EXPECT_EQ(example.targets[i], -1);
      EXPECT_EQ(example.targets[i + 1], -1);
    }
    EXPECT_EQ(pairs.size(), 2u);
    EXPECT_NE(example.tokens[1], example.tokens[3]);
    // Each key once more, in a slot of two tokens; a label there and nowhere else.
    std::set<int32_t> asked;
    for (size_t i = 4; i < 16; ++i) {
      const bool query = example.tokens[i] != 0;
      EXPECT_EQ(example.targets[i], query ? pairs.at(example.tokens[i]) : -1);
      if (!query) continue;
      EXPECT_EQ(i % 2, 0u);
      EXPECT_TRUE(asked.insert(example.tokens[i]).second);
    }
    EXPECT_EQ(asked.size(), 2u);
    EXPECT_EQ(example.tokens, task->example(16, 0, sample).tokens);
    seen.insert(example.tokens);
  }
  EXPECT_GT(seen.size(), 40u);
  // Evaluations made at other times and elsewhere ask the same.
  EXPECT_EQ(task->example(16, 0, 0).tokens,
            (std::vector<int32_t>{3, 9, 1, 11, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0}));
  TaskSource other = source;
  other.seed = source.seed + 1;
  EXPECT_NE(make("mqar", other, {{"pairs", "2"}})->example(16, 0, 0).tokens,
            task->example(16, 0, 0).tokens);
}

TEST(Tasks, MqarSlotsFollowThePowerLaw) {
  const std::vector<double> p = mqar_slot_probabilities(4);
  EXPECT_NEAR(p[0], 0.47756, 5e-6);
  EXPECT_NEAR(p[1], 0.24044, 5e-6);
  EXPECT_NEAR(p[2], 0.16094, 5e-6);
  EXPECT_NEAR(p[3], 0.12106, 5e-6);
  // And are drawn so: one pair has slots of that probability.
  TaskSource source;
  source.vocabulary = 100;
  const auto task = make("mqar", source, {{"pairs", "1"}});
  std::vector<double> share(4);
  for (int64_t sample = 0; sample < 4000; ++sample) {
    const TaskExample example = task->example(10, 0, sample);
    for (size_t slot = 0; slot < 4; ++slot) {
      if (example.targets[2 + 2 * slot] >= 0) share[slot] += 1.0 / 4000;
    }
  }
  for (size_t slot = 0; slot < 4; ++slot) EXPECT_NEAR(share[slot], p[slot], 0.03);  // 4 sigma
}

TEST(Tasks, MqarForms) {
  TaskSource source;
  source.vocabulary = 64;
  const TaskExample answered =
      make("mqar", source, {{"answered", "yes"}, {"filler", "random"}})->example(128, 0, 0);
  int labels = 0;
  for (size_t i = 0; i < answered.tokens.size(); ++i) {
    if (answered.targets[i] < 0) continue;
    ++labels;
    EXPECT_EQ(answered.tokens[i + 1], answered.targets[i]);
  }
  EXPECT_EQ(labels, 8);  // a pair for 16 tokens
  EXPECT_THAT(message_of([&] {
                make("mqar", source, {{"pairs", "40"}})->example(256, 0, 0);
              }),
              HasSubstr("need a vocabulary of 82"));
  EXPECT_THAT(message_of([&] {
                make("mqar", source, {{"pairs", "5"}})->example(18, 0, 0);
              }),
              HasSubstr("need 20 tokens but the length is 18"));
}

TEST(Tasks, CopyAndRecallAskForSingleLetters) {
  TaskSource source;
  source.tokenizer = &bytes();
  for (const std::string name : {"copy", "recall"}) {
    const auto task = make(name, source, {{"most", "4"}});
    for (int64_t sample = 0; sample < 20; ++sample) {
      const TaskExample example = task->example(60, 0, sample);
      const std::string text = example.prompt + example.answer;
      EXPECT_EQ(text.size(), 60u);
      const size_t gap = text.find('|');
      const std::string given = text.substr(0, gap);
      std::string copy = given;
      std::sort(copy.begin(), copy.end());
      std::string asked = example.answer;
      if (name == "copy") {
        EXPECT_EQ(asked, given);
      }
      std::sort(asked.begin(), asked.end());
      EXPECT_EQ(asked, copy);
      int64_t counted = 0;
      for (size_t i = 0; i < example.targets.size(); ++i) {
        if (example.targets[i] < 0) continue;
        ++counted;
        EXPECT_EQ(example.targets[i], example.tokens[i + 1]);
        EXPECT_GT(i + 1, example.prompt.size() - 1);
      }
      const auto letters = static_cast<int64_t>(given.size());
      EXPECT_EQ(counted, name == "copy" ? letters : letters / 2);
      int64_t answers = 0;
      for (const auto& [begin, end] : example.answers) answers += end - begin;
      EXPECT_EQ(answers, counted);
    }
  }
  const TaskExample fixed =
      make("copy", source, {{"most", "1"}, {"distance", "6"}})->example(100, 0, 0);
  EXPECT_EQ(fixed.prompt.substr(1), "|......|");
}

TEST(Tasks, RecallScoresTheFirstQueryOfEachKey) {
  TaskSource source;
  source.tokenizer = &bytes();
  const auto task = make("recall", source, {{"most", "3"}, {"distance", "5"}, {"queries", "9"}});
  for (int64_t sample = 0; sample < 20; ++sample) {
    const TaskExample example = task->example(60, 0, sample);
    const size_t pairs = example.prompt.find('|') / 2;
    ASSERT_EQ(example.answer.size(), 18U);
    std::set<char> asked;
    for (size_t i = 0; i < example.answer.size(); i += 2) {
      const char key = example.answer[i];
      EXPECT_EQ(example.answer[i + 1], example.prompt[example.prompt.find(key) + 1]);
      const size_t value = example.prompt.size() + i + 1;
      EXPECT_EQ(example.targets[value - 1], i / 2 < pairs ? example.tokens[value] : -1);
      EXPECT_EQ(asked.insert(key).second, i / 2 < pairs);
    }
    EXPECT_EQ(example.answers.size(), pairs);
  }
}

TEST(Tasks, TheHaystackIsCutAndRepeatedAtCharacters) {
  TaskSource source;
  source.haystack = clean_haystack("  aé—\n\nb\t ");
  EXPECT_EQ(source.haystack, "aé— b ");
  Draws draws(source, "test", 0, 0, 0);
  const Haystack noise(source, true, draws);
  EXPECT_EQ(noise.first(100), std::string(kNoise) + " The grass ");
  EXPECT_EQ(noise.words(4), "The grass is green.");
  const Haystack text(source, false, draws);
  for (int64_t bytes = 0; bytes < 20; ++bytes) {
    const std::string first = text.first(bytes);
    EXPECT_LE(static_cast<int64_t>(first.size()), bytes);
    EXPECT_GE(static_cast<int64_t>(first.size()), bytes - 2);
    EXPECT_FALSE(!first.empty() && (static_cast<unsigned char>(first.back()) & 0xc0) == 0xc0);
  }
  const TemporaryFolder folder;
  write_file(folder / "a.txt", "one  two\n");
  write_file(folder / "b.txt", "three");
  EXPECT_EQ(read_haystack(folder.path()), "one two three ");
  EXPECT_THROW(read_haystack(folder / "nowhere"), Error);
}

TEST(Tasks, WhatCannotBeAskedIsRefusedWithItsReason) {
  TaskSource source;
  source.tokenizer = &bytes();
  EXPECT_THAT(message_of([&] { make("passkey", source)->example(200, 0, 0); }),
              HasSubstr("tokens with this tokenizer"));
  EXPECT_THAT(message_of([&] { make("passkey", source)->example(200, 0, 0); }),
              HasSubstr("but the length is 200"));
  EXPECT_THAT(message_of([&] { make("niah_single_2", source); }), HasSubstr("--haystack"));
  EXPECT_THAT(message_of([&] {
                make("niah", source, {{"haystack", "text"}});
              }),
              HasSubstr("--haystack"));
  EXPECT_THAT(message_of([&] {
                make("niah", source, {{"queries", "2"}});
              }),
              HasSubstr("asks for 2 needles but hides 1"));
  EXPECT_THAT(message_of([&] {
                make("niah", source, {{"needles", "many"}});
              }),
              HasSubstr("needles is \"many\"; it must be a whole number"));
  EXPECT_THAT(message_of([&] {
                make("niah", source, {{"keys", "names"}});
              }),
              HasSubstr("it must be one of words, numbers, uuids"));
  EXPECT_THAT(message_of([&] {
                make("kv", source, {{"pairs", "75"}})->example(1000, 0, 0);
              }),
              HasSubstr("but the length is 1000"));
  EXPECT_THAT(message_of([&] {
                make("kv", source, {{"items", "numbers"}, {"digits", "3"}, {"pairs", "500"}});
              }),
              HasSubstr("at most 112 pairs"));
  EXPECT_THAT(message_of([&] { make("cwe", source)->example(100000, 0, 0); }),
              HasSubstr("different words that are known"));
  source.tokenizer = &pieces();
  EXPECT_THAT(message_of([&] { make("copy", source); }), HasSubstr("must be bytes"));
  source.tokenizer = nullptr;
  EXPECT_THAT(message_of([&] { make("passkey", source); }), HasSubstr("needs a tokenizer"));
}

}  // namespace
}  // namespace sidewinder
