#include "data/tasks/prompt.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

FittedPrompt fit_prompt(const TaskSource& source, const std::string& task, int64_t length,
                        int64_t new_tokens, int64_t least, int64_t most,
                        const std::function<std::string(int64_t)>& prompt_of) {
  const int64_t budget = length - new_tokens;
  const auto make = [&](int64_t units) {
    FittedPrompt prompt{prompt_of(units), {}, units};
    if (source.bos) prompt.tokens.push_back(*source.tokenizer->bos());
    const std::vector<int32_t> tokens = source.tokenizer->encode(prompt.text);
    prompt.tokens.insert(prompt.tokens.end(), tokens.begin(), tokens.end());
    return prompt;
  };
  const auto count = [](const FittedPrompt& prompt) {
    return static_cast<int64_t>(prompt.tokens.size());
  };
  FittedPrompt best = make(least);
  const int64_t smallest = count(best);
  SIDEWINDER_REQUIRE(
      smallest <= budget,
      "{} needs at least {} tokens with this tokenizer ({} to ask, {} to answer) but "
      "the length is {}; ask for greater lengths",
      task, smallest + new_tokens, smallest, new_tokens, length);
  // Tokens are nearly proportional to units, so places are guessed by the mean rate so far. A guess
  // that halves the interval takes turns with it, against texts where the rate misleads.
  int64_t too_many = most + 1;
  double rate = 0;  // tokens per unit; a few units tell it first
  for (int turn = 0; best.units + 1 < too_many && count(best) < budget; ++turn) {
    const bool bounded = too_many <= most;
    int64_t units = 0;
    if (bounded && turn % 3 == 2) {
      units = best.units + (too_many - best.units) / 2;
    } else if (rate == 0) {
      units = best.units + 16;
    } else {
      const double more = static_cast<double>(budget - count(best)) / rate;
      units = best.units + std::max<int64_t>(1, static_cast<int64_t>(std::min(more, 1e15)));
    }
    units = std::clamp(units, best.units + 1, too_many - 1);
    FittedPrompt next = make(units);
    if (count(next) > smallest) {
      rate = static_cast<double>(count(next) - smallest) / static_cast<double>(units - least);
    }
    if (count(next) <= budget) {
      best = std::move(next);
    } else {
      too_many = units;
    }
  }
  return best;
}

int64_t answer_tokens(const TaskSource& source, const std::string& answer) {
  const auto tokens = static_cast<int64_t>(source.tokenizer->encode(answer).size());
  return tokens + tokens / 2 + 4;
}

Haystack::Haystack(const TaskSource& source, bool noise, Draws& draws) {
  static const std::string kNoiseAndSpace = std::string(kNoise) + " ";
  if (noise) {
    text_ = kNoiseAndSpace;
    return;
  }
  text_ = source.haystack;
  begin_ = static_cast<size_t>(draws.below(static_cast<int64_t>(text_.size())));
  const size_t space = text_.find(' ', begin_);
  begin_ = space == std::string_view::npos ? 0 : (space + 1) % text_.size();
}

std::string Haystack::first(int64_t bytes) const {
  std::string result;
  result.reserve(static_cast<size_t>(bytes));
  size_t at = begin_;
  while (static_cast<int64_t>(result.size()) < bytes) {
    const size_t part = std::min(text_.size() - at, static_cast<size_t>(bytes) - result.size());
    result += text_.substr(at, part);
    at = (at + part) % text_.size();
  }
  if (is_continuation(text_[at])) {
    while (!result.empty() && is_continuation(result.back())) result.pop_back();
    if (!result.empty()) result.pop_back();
  }
  return result;
}

std::string Haystack::words(int64_t count) const {
  int64_t bytes = 0;
  for (size_t at = begin_; count > 0; at = (at + 1) % text_.size(), ++bytes) {
    if (text_[at] == ' ') --count;
  }
  return first(std::max<int64_t>(0, bytes - 1));
}

bool starts_sentence(std::string_view text, size_t at) {
  if (at < 2) return at == 0;
  const char end = text[at - 2];
  return text[at - 1] == ' ' && (end == '.' || end == '!' || end == '?');
}

size_t sentence_start(std::string_view text, size_t at) {
  if (at >= text.size()) return text.size();
  while (!starts_sentence(text, at)) --at;
  return at;
}

int64_t occurrences(std::string_view text, std::string_view part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

int64_t SettingReader::integer(const std::string& name, int64_t fallback, int64_t least,
                               int64_t most) const {
  const auto found = settings_.find(name);
  if (found == settings_.end()) return fallback;
  const std::string& text = found->second;
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  SIDEWINDER_REQUIRE(result.ec == std::errc() && result.ptr == text.data() + text.size() &&
                         value >= least && value <= most,
                     "{}: {} is \"{}\"; it must be a whole number from {} to {}", task_, name, text,
                     least, most);
  return value;
}

std::string SettingReader::word(const std::string& name, const std::string& fallback,
                                const std::vector<std::string>& choices) const {
  const auto found = settings_.find(name);
  if (found == settings_.end()) return fallback;
  std::string possible;
  for (const std::string& choice : choices) {
    if (choice == found->second) return choice;
    possible += (possible.empty() ? "" : ", ") + choice;
  }
  fail_user("{}: {} is \"{}\"; it must be one of {}", task_, name, found->second, possible);
}

bool SettingReader::boolean(const std::string& name, bool fallback) const {
  return word(name, fallback ? "yes" : "no", {"yes", "no"}) == "yes";
}

std::string task_label(const TaskKind& kind, const TaskSettings& settings) {
  std::string label = kind.name;
  for (const auto& [name, value] : settings) label += fmt::format(":{}={}", name, value);
  return label;
}

TextTask::TextTask(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
    : source_(source), label_(task_label(kind, settings)) {
  SIDEWINDER_REQUIRE(source.tokenizer != nullptr, "{} is made of text and needs a tokenizer",
                     label_);
}

}  // namespace sidewinder
