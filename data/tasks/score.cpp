#include "data/tasks/score.h"

#include <algorithm>
#include <charconv>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool contains(std::string_view text, std::string_view part) {
  return std::search(text.begin(), text.end(), part.begin(), part.end(),
                     [](char a, char b) { return lower(a) == lower(b); }) != text.end();
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

double contains_all(std::string_view completion, std::span<const std::string> references) {
  if (references.empty()) return 0;
  const auto found = std::count_if(references.begin(), references.end(),
                                   [&](const auto& part) { return contains(completion, part); });
  return static_cast<double>(found) / static_cast<double>(references.size());
}

std::optional<int64_t> first_integer(std::string_view text) {
  const auto begin = std::find_if(text.begin(), text.end(), is_digit);
  const auto end = std::find_if_not(begin, text.end(), is_digit);
  const std::string digits(begin, end);
  int64_t value = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

LengthAverages length_averages(std::span<const double> scores) {
  SIDEWINDER_ASSERT(!scores.empty());
  LengthAverages result;
  const double count = static_cast<double>(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    const double place = static_cast<double>(i);
    result.mean += scores[i];
    result.increasing += (place + 1) * scores[i];
    result.decreasing += (count - place) * scores[i];
  }
  const double weights = count * (count + 1) / 2;
  return {result.mean / count, result.increasing / weights, result.decreasing / weights};
}

int64_t effective_length(std::span<const int64_t> lengths, std::span<const double> scores,
                         double bar) {
  SIDEWINDER_ASSERT(lengths.size() == scores.size());
  int64_t longest = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (scores[i] >= bar) longest = std::max(longest, lengths[i]);
  }
  return longest;
}

}  // namespace sidewinder
