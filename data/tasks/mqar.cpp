#include "data/tasks/mqar.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/tasks/prompt.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

// Keys and values, then each key once more in some slot of two tokens; its value is to follow it.
//
//   tokens    2  8  4  7  0  0  4  0  0  0  0  0  2  0  0  0
//   targets   -  -  -  -  -  -  7  -  -  -  -  -  8  -  -  -
class Mqar : public Task {
 public:
  Mqar(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : source_(source), label_(task_label(kind, settings)) {
    const SettingReader reader(label_, settings);
    pairs_ = reader.integer("pairs", 0, 0, 1000000);
    vocabulary_ = reader.integer("vocabulary", source.vocabulary, 4, INT32_MAX);
    SIDEWINDER_REQUIRE(source.vocabulary == 0 || vocabulary_ <= source.vocabulary,
                       "{}: vocabulary is {} but the model has {} token ids", label_, vocabulary_,
                       source.vocabulary);
    random_filler_ = reader.word("filler", "zero", {"zero", "random"}) == "random";
    answered_ = reader.boolean("answered", false);
  }

  bool has_depth() const override { return false; }

  TaskExample example(int64_t length, double, int64_t sample) const override {
    const int64_t count = length / 2 * 2;
    const int64_t pairs = pairs_ != 0 ? pairs_ : std::max<int64_t>(1, length / 16);
    SIDEWINDER_REQUIRE(4 * pairs <= count,
                       "{}: {} pairs need {} tokens but the length is {}; ask for less", label_,
                       pairs, 4 * pairs, length);
    SIDEWINDER_REQUIRE(
        pairs <= vocabulary_ / 2 - 1,
        "{}: {} pairs of length {} need a vocabulary of {} or more; it is {}; set pairs to "
        "fewer",
        label_, pairs, length, 2 * pairs + 2, vocabulary_);
    Draws draws(source_, label_, length, 0, sample);
    const int64_t first_value = vocabulary_ / 2;
    const std::vector<int64_t> keys =
        draws.distinct(pairs, first_value - 1);  // less 1: 0 is filler
    const std::vector<int64_t> values = draws.distinct(pairs, vocabulary_ - first_value);
    const auto key = [&](size_t i) { return static_cast<int32_t>(keys[i] + 1); };
    const auto value = [&](size_t i) { return static_cast<int32_t>(values[i] + first_value); };

    TaskExample example;
    example.tokens.assign(static_cast<size_t>(count), 0);
    example.targets.assign(static_cast<size_t>(count), -1);
    for (size_t i = 0; i < keys.size(); ++i) {
      example.tokens[2 * i] = key(i);
      example.tokens[2 * i + 1] = value(i);
    }
    std::vector<double> weights = mqar_slot_probabilities((count - 2 * pairs) / 2);
    for (size_t i = 0; i < keys.size(); ++i) {
      const size_t slot = draw_slot(draws, weights);
      weights[slot] = 0;
      const size_t at = 2 * (keys.size() + slot);
      example.tokens[at] = key(i);
      example.targets[at] = value(i);
      if (answered_) example.tokens[at + 1] = value(i);
    }
    if (random_filler_) {
      for (int32_t& token : example.tokens) {
        if (token == 0) token = static_cast<int32_t>(draws.below(vocabulary_));
      }
    }
    return example;
  }

 private:
  static size_t draw_slot(Draws& draws, const std::vector<double>& weights) {
    double left = draws.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
    size_t last = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (weights[i] == 0) continue;
      last = i;
      left -= weights[i];
      if (left < 0) break;
    }
    return last;
  }

  const TaskSource& source_;
  std::string label_;
  int64_t pairs_ = 0;
  int64_t vocabulary_ = 0;
  bool random_filler_ = false;
  bool answered_ = false;
};

}  // namespace

std::vector<double> mqar_slot_probabilities(int64_t slots, double a) {
  std::vector<double> result;
  for (int64_t g = 1; g <= slots; ++g)
    result.push_back(a * std::pow(static_cast<double>(g), a - 1));
  const double total = std::accumulate(result.begin(), result.end(), 0.0);
  for (double& p : result) p /= total;
  return result;
}

std::unique_ptr<Task> make_mqar(const TaskKind& kind, const TaskSettings& settings,
                                const TaskSource& source) {
  return std::make_unique<Mqar>(kind, settings, source);
}

}  // namespace sidewinder
