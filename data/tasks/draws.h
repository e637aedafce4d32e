#pragma once
// Random numbers of one example, in order.

#include <string>
#include <utility>
#include <vector>

#include "data/tasks/task.h"
#include "kernels/base/philox.h"

namespace sidewinder {

class Draws {
 public:
  // `task` names kind and settings. Depths are told apart to 1/10000.
  Draws(const TaskSource& source, const std::string& task, int64_t length, double depth,
        int64_t sample);

  int64_t below(int64_t bound) {
    return static_cast<int64_t>(random_.below(next_++, static_cast<uint64_t>(bound)));
  }
  // Both ends are possible.
  int64_t between(int64_t least, int64_t most) { return least + below(most - least + 1); }
  double uniform() { return random_.uniform(next_++); }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<size_t>(below(static_cast<int64_t>(i)))]);
    }
  }
  template <typename T>
  const T& one_of(const std::vector<T>& items) {
    return items[static_cast<size_t>(below(static_cast<int64_t>(items.size())))];
  }
  // `count` different numbers below `bound`, in random order. count <= bound.
  std::vector<int64_t> distinct(int64_t count, int64_t bound);

  std::string digits(int64_t count);               // a number of exactly so many digits
  std::string letters(int64_t count, char first);  // of the 26 from `first` on
  std::string uuid();                              // version 4
  std::string word();                              // "adjective-noun"

 private:
  Philox random_;
  uint64_t next_ = 0;
};

// Words for keys and lists, each once, in a fixed order.
const std::vector<std::string>& adjectives();
const std::vector<std::string>& nouns();

}  // namespace sidewinder
