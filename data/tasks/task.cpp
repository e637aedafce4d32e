#include "data/tasks/task.h"

#include <algorithm>

#include "data/tasks/prompt.h"
#include "data/tasks/score.h"
#include "data/text_reader.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

const std::map<std::string, std::string> kAnswerTokens = {
    {"answer_tokens", "tokens that are generated (default: as published)"}};
const std::map<std::string, std::string> kLetterSettings = {
    {"most", "letters or pairs, at most; each example has 1 to this many (8)"},
    {"distance", "dots between what is given and what is asked (default: fills the length)"}};
const std::map<std::string, std::string> kRecallSettings = {
    *kLetterSettings.find("most"),
    *kLetterSettings.find("distance"),
    {"queries", "keys asked for, the first of each scored; 0: each once (0)"}};

TaskKind ruler(const std::string& name, const std::string& summary, decltype(TaskKind::make) make,
               std::map<std::string, std::string> settings = {}) {
  settings.insert(kAnswerTokens.begin(), kAnswerTokens.end());
  return {name, "RULER: " + summary, settings, true, make};
}

}  // namespace

double Task::score(const TaskExample& example, std::string_view completion) const {
  return contains_all(completion, example.references);
}

bool Task::decided(const TaskExample& example, std::string_view completion) const {
  return score(example, completion) == 1;
}

const std::vector<TaskKind>& task_kinds() {
  static const std::vector<TaskKind> kinds = {
      {"passkey",
       "a number in repeated filler, asked for at the end",
       {{"most", "numbers are drawn from 1 to this (50000)"},
        {"instruction", "yes or no: begin by saying what will be asked (yes)"}},
       false,
       &make_passkey},
      {"niah",
       "needles in a haystack: words with numbers, hidden in text",
       {{"needles", "how many are hidden: one at the depth, others behind it (1)"},
        {"queries", "how many are asked for (1)"},
        {"keys", "words, numbers or uuids (words)"},
        {"values", "words, numbers or uuids (numbers)"},
        {"haystack", "text or noise (text where --haystack is given)"}},
       false,
       &make_needle},
      {"kv",
       "lost in the middle: a pair of a JSON object; the depth is its place",
       {{"pairs", "how many; 0: as many as fit (0)"},
        {"items", "uuids or numbers (uuids)"},
        {"digits", "of numbers (7)"},
        {"aware", "yes or no: name the key before the object too (no)"}},
       false,
       &make_key_value},
      {"mqar",
       "associative recall over token ids",
       {{"pairs", "keys and values; 0: a pair for 16 tokens (0)"},
        {"vocabulary", "ids in use (the model's)"},
        {"filler", "zero or random (zero)"},
        {"answered", "yes or no: a value follows its query, as in running text (no)"}},
       false,
       &make_mqar},
      {"copy", "letters, dots, and the same letters", kLetterSettings, false, &make_copy},
      {"recall", "letters with digits, dots, and the letters again", kRecallSettings, false,
       &make_recall},
      ruler("niah_single_1", "word → number in noise", &make_ruler_needle),
      ruler("niah_single_2", "word → number in text", &make_ruler_needle),
      ruler("niah_single_3", "word → uuid in text", &make_ruler_needle),
      ruler("niah_multikey_1", "one of four words in text", &make_ruler_needle),
      ruler("niah_multikey_2", "word → number among nothing but needles", &make_ruler_needle),
      ruler("niah_multikey_3", "uuid → uuid among nothing but needles", &make_ruler_needle),
      ruler("niah_multivalue", "four numbers of one word in text", &make_ruler_needle),
      ruler("niah_multiquery", "four words asked for at once", &make_ruler_needle),
      ruler("vt", "variables assigned from each other, in noise", &make_variable_tracking,
            {{"hops", "assignments after the first (4)"},
             {"chains", "of which the first is asked for (1)"},
             {"shots", "solved examples in front, 0 or 1 (1)"}}),
      ruler("cwe", "the most common words of a list", &make_common_words,
            {{"common", "words that are common (10)"},
             {"often", "how often those appear (30)"},
             {"seldom", "how often others appear (3)"},
             {"shots", "solved examples in front, 0 or 1 (1)"}}),
      ruler("fwe", "the three most frequent coded words", &make_frequent_words),
  };
  return kinds;
}

std::unique_ptr<Task> make_task(const TaskKind& kind, const TaskSettings& settings,
                                const TaskSource& source) {
  SIDEWINDER_REQUIRE(
      !source.bos || (source.tokenizer != nullptr && source.tokenizer->bos().has_value()),
      "prompts are to start with BOS, but this tokenizer has none");
  return kind.make(kind, settings, source);
}

std::string clean_haystack(std::string_view text) {
  std::string result;
  result.reserve(text.size() + 1);
  for (const char byte : text) {
    const bool space = byte == ' ' || (byte >= '\t' && byte <= '\r');
    if (!space) {
      result += byte;
    } else if (!result.empty() && result.back() != ' ') {
      result += ' ';
    }
  }
  if (!result.empty() && result.back() != ' ') result += ' ';  // it is read over and over
  return result;
}

std::string read_haystack(const std::string& path, uint64_t max_bytes) {
  TextReader reader(find_text_files({path}), {.invalid = InvalidText::skip});
  std::string text;
  while (text.size() < max_bytes) {
    const std::optional<TextDocument> document = reader.next();
    if (!document) break;
    text += clean_haystack(document->text);
  }
  if (text.empty()) fail_environment("{} holds no text to hide things in", path);
  return text;
}

}  // namespace sidewinder
