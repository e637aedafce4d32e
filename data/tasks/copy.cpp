// Copying and recalling single letters over a distance: what the memory of a very small model can
// do. Bytes are tokens, so that every answer is one prediction per letter, and one pass scores them
// all.
#include <algorithm>
#include <numeric>

#include "data/tasks/prompt.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr int64_t kLetters = 8;  // a to h
constexpr int64_t kKeys = 8;     // a to h
constexpr int64_t kValues = 8;   // 0 to 7

// What must be remembered, '|', dots, '|', what is asked.
class LetterTask : public Task {
 public:
  LetterTask(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source,
             int64_t most)
      : source_(source), label_(task_label(kind, settings)) {
    SIDEWINDER_REQUIRE(source.tokenizer != nullptr && source.tokenizer->is_bytes(),
                       "{} asks for single letters; the tokenizer must be bytes", label_);
    const SettingReader reader(label_, settings);
    most_ = reader.integer("most", 8, 1, most);
    distance_ = reader.integer("distance", -1, 0, 1000000000);
  }

  bool has_depth() const override { return false; }

  TaskExample example(int64_t length, double, int64_t sample) const override {
    Draws draws(source_, label_, length, 0, sample);
    std::string given;
    std::string asked;
    std::vector<bool> counts;  // per byte of `asked`
    // Fewer are easier: learning starts with them.
    make(draws, 1 + draws.below(most_), given, asked, counts);
    const auto fixed = static_cast<int64_t>(given.size() + asked.size()) + 2;
    const int64_t dots = distance_ >= 0 ? distance_ : length - fixed;
    SIDEWINDER_REQUIRE(dots >= 0 && fixed + dots <= length,
                       "{} needs {} tokens but the length is {}; ask for greater lengths", label_,
                       fixed + std::max<int64_t>(0, dots), length);
    TaskExample example;
    example.prompt = given + "|" + std::string(static_cast<size_t>(dots), '.') + "|";
    example.answer = asked;
    const auto begin = static_cast<int64_t>(example.prompt.size());
    example.tokens = source_.tokenizer->encode(example.prompt + example.answer);
    example.targets.assign(example.tokens.size(), -1);
    for (size_t i = 0; i < asked.size(); ++i) {
      if (!counts[i]) continue;
      const auto at = static_cast<size_t>(begin) + i;
      example.targets[at - 1] = example.tokens[at];
      if (i > 0 && counts[i - 1]) {
        ++example.answers.back().second;
      } else {
        example.answers.emplace_back(at, at + 1);
      }
    }
    return example;
  }

 protected:
  virtual void make(Draws& draws, int64_t count, std::string& given, std::string& asked,
                    std::vector<bool>& counts) const = 0;

 private:
  const TaskSource& source_;
  std::string label_;
  int64_t most_ = 8;
  int64_t distance_ = -1;  // -1: what the length leaves
};

// "bdca|....|bdca"
class Copy : public LetterTask {
 public:
  Copy(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : LetterTask(kind, settings, source, 1000000) {}

 private:
  void make(Draws& draws, int64_t count, std::string& given, std::string& asked,
            std::vector<bool>& counts) const override {
    for (int64_t i = 0; i < count; ++i) given += static_cast<char>('a' + draws.below(kLetters));
    asked = given;
    counts.assign(given.size(), true);
  }
};

// "c3a5f1|....|a5f1c3": pairs of a key and a value, then the keys in another order. More queries
// than keys go on with any of them: not scored, since their values have just been said, but much
// more to learn from than a pair each.
class Recall : public LetterTask {
 public:
  Recall(const TaskKind& kind, const TaskSettings& settings, const TaskSource& source)
      : LetterTask(kind, settings, source, kKeys),
        queries_(SettingReader(task_label(kind, settings), settings)
                     .integer("queries", 0, 0, 1000000000)) {}

 private:
  void make(Draws& draws, int64_t count, std::string& given, std::string& asked,
            std::vector<bool>& counts) const override {
    std::vector<int64_t> keys = draws.distinct(count, kKeys);
    std::string values(kKeys, '0');
    for (const int64_t key : keys) {
      values[static_cast<size_t>(key)] = static_cast<char>('0' + draws.below(kValues));
      given += {static_cast<char>('a' + key), values[static_cast<size_t>(key)]};
    }
    draws.shuffle(keys);
    for (const int64_t key : keys) {
      asked += {static_cast<char>('a' + key), values[static_cast<size_t>(key)]};
      counts.insert(counts.end(), {false, true});
    }
    for (int64_t i = count; i < queries_; ++i) {
      const int64_t key = draws.one_of(keys);
      asked += {static_cast<char>('a' + key), values[static_cast<size_t>(key)]};
      counts.insert(counts.end(), {false, false});
    }
  }

  int64_t queries_;
};

}  // namespace

std::unique_ptr<Task> make_copy(const TaskKind& kind, const TaskSettings& settings,
                                const TaskSource& source) {
  return std::make_unique<Copy>(kind, settings, source);
}

std::unique_ptr<Task> make_recall(const TaskKind& kind, const TaskSettings& settings,
                                  const TaskSource& source) {
  return std::make_unique<Recall>(kind, settings, source);
}

}  // namespace sidewinder
