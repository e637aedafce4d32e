#pragma once
// Prompts as long as a budget of tokens allows.

#include <functional>
#include <string>
#include <vector>

#include "data/tasks/draws.h"

namespace sidewinder {

// The five sentences that are repeated where there is no text (Mohtashami and Jaggi 2023).
inline constexpr std::string_view kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

struct FittedPrompt {
  std::string text;
  std::vector<int32_t> tokens;
  int64_t units = 0;
};

// The prompt with the most units (0 … most) whose tokens number at most length - new_tokens.
// `prompt_of` makes the prompt of that many units, whose tokens should grow with them. `least`:
// fewer units are no prompt. Error{user} naming `task` if not even those fit.
FittedPrompt fit_prompt(const TaskSource& source, const std::string& task, int64_t length,
                        int64_t new_tokens, int64_t least, int64_t most,
                        const std::function<std::string(int64_t)>& prompt_of);

// Tokens that an answer needs in generation: its own, half as many again, and a few.
int64_t answer_tokens(const TaskSource& source, const std::string& answer);

// Endless text to hide things in: the source's haystack from a random word on, over and over, or
// repeated noise.
class Haystack {
 public:
  Haystack(const TaskSource& source, bool noise, Draws& draws);

  // The first `bytes` bytes, less those of a character that would be cut.
  std::string first(int64_t bytes) const;
  // The first `count` words.
  std::string words(int64_t count) const;

 private:
  std::string_view text_;
  size_t begin_ = 0;
};

// Whether a sentence begins at `at`: behind ". ", "! " or "? ", or at 0.
bool starts_sentence(std::string_view text, size_t at);
// The last place up to `at` where one begins. The end of the text counts if `at` is there.
size_t sentence_start(std::string_view text, size_t at);

// How often `part` occurs in `text`.
int64_t occurrences(std::string_view text, std::string_view part);

// Reads settings as numbers, words or switches; Error{user} naming task, setting and what is
// possible.
class SettingReader {
 public:
  SettingReader(const std::string& task, const TaskSettings& settings)
      : task_(task), settings_(settings) {}
  int64_t integer(const std::string& name, int64_t fallback, int64_t least, int64_t most) const;
  std::string word(const std::string& name, const std::string& fallback,
                   const std::vector<std::string>& choices) const;
  bool boolean(const std::string& name, bool fallback) const;

 private:
  std::string task_;
  const TaskSettings& settings_;
};

// "niah:needles=4", which names an example's draws: all that is set, in alphabetical order.
std::string task_label(const TaskKind& kind, const TaskSettings& settings);

// A task made of text: it needs a tokenizer.
class TextTask : public Task {
 protected:
  TextTask(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source);

  const TaskSource& source_;
  std::string label_;  // task_label
};

// One source file a family.
std::unique_ptr<Task> make_passkey(const TaskKind&, const TaskSettings&, const TaskSource&);
std::unique_ptr<Task> make_needle(const TaskKind&, const TaskSettings&, const TaskSource&);
std::unique_ptr<Task> make_ruler_needle(const TaskKind&, const TaskSettings&, const TaskSource&);
std::unique_ptr<Task> make_variable_tracking(const TaskKind&, const TaskSettings&,
                                             const TaskSource&);
std::unique_ptr<Task> make_common_words(const TaskKind&, const TaskSettings&, const TaskSource&);
std::unique_ptr<Task> make_frequent_words(const TaskKind&, const TaskSettings&, const TaskSource&);
std::unique_ptr<Task> make_key_value(const TaskKind&, const TaskSettings&, const TaskSource&);
std::unique_ptr<Task> make_mqar(const TaskKind&, const TaskSettings&, const TaskSource&);
std::unique_ptr<Task> make_copy(const TaskKind&, const TaskSettings&, const TaskSource&);
std::unique_ptr<Task> make_recall(const TaskKind&, const TaskSettings&, const TaskSource&);

}  // namespace sidewinder
