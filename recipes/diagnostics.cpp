#include "recipes/diagnostics.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <tuple>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  std::iota(above.begin(), above.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before.swap(above);
    above.swap(row);
  }
  return above[b.size()];
}

// The recipe first, then what it extends, then --set.
auto reading_order(const Place& place) {
  const bool is_argument = place.precedence > 0;
  return std::make_tuple(is_argument, is_argument ? place.precedence : -place.precedence,
                         place.line, place.column);
}

}  // namespace

bool Problems::has(std::string_view key) const {
  return std::any_of(problems_.begin(), problems_.end(), [&](const Problem& problem) {
    const std::string& bad = problem.key;
    if (bad.empty() || key.substr(0, bad.size()) != bad) return false;
    return key.size() == bad.size() || key[bad.size()] == '.';
  });
}

std::string Problems::text() const {
  std::vector<Problem> sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Problem& a, const Problem& b) {
    return reading_order(a.place) < reading_order(b.place);
  });
  std::string text;
  for (const Problem& problem : sorted) {
    if (!text.empty()) text += '\n';
    text += problem.place.text() + ": ";
    if (!problem.key.empty()) text += problem.key + ": ";
    text += problem.what;
    if (!problem.advice.empty()) text += "\n    " + problem.advice;
  }
  return text;
}

void Problems::throw_if_any() const {
  if (!empty()) throw Error(Blame::user, text());
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  std::string nearest;
  size_t smallest = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < smallest) {
      smallest = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string word_list(const std::vector<std::string>& words, std::string_view last) {
  std::string list;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) list += i + 1 == words.size() ? fmt::format(" {} ", last) : ", ";
    list += words[i];
  }
  return list;
}

std::vector<std::string> quoted_names(const std::vector<std::string>& names) {
  std::vector<std::string> result;
  result.reserve(names.size());
  for (const std::string& name : names) result.push_back(toml_string(name));
  return result;
}

}  // namespace sidewinder
