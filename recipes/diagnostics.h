#pragma once
// The problems found in a recipe, collected so that all are reported together.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recipes/node.h"

namespace sidewinder {

struct Problem {
  Place place;
  std::string key;     // dotted; may be empty
  std::string what;    // what was found
  std::string advice;  // what to do
};

class Problems {
 public:
  void add(Problem problem) { problems_.push_back(std::move(problem)); }
  bool empty() const { return problems_.empty(); }
  // Whether a problem with this key or a table around it is known; rules that need its value then
  // stay silent.
  bool has(std::string_view key) const;
  // Every problem, by file and line.
  std::string text() const;
  // Throws Error{user} with text() unless empty.
  void throw_if_any() const;

 private:
  std::vector<Problem> problems_;
};

// The candidate that `name` was probably meant to be; empty: none is close.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

// "a", "a and b", "a, b and c"
std::string word_list(const std::vector<std::string>& words, std::string_view last = "and");
std::vector<std::string> quoted_names(const std::vector<std::string>& names);

}  // namespace sidewinder
