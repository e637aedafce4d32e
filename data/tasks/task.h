#pragma once
// Retrieval tasks: prompts of a given number of tokens in which something must be found again, at a
// given depth, and the scores of what a model answers. The same generators make training documents.
//
// An example is a pure function of seed, purpose, task with its settings, length, depth and sample.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace sidewinder {

// What examples are made from.
struct TaskSource {
  const Tokenizer* tokenizer = nullptr;  // null: tasks made of token ids only (mqar)
  int64_t vocabulary = 0;                // token ids that tasks made of ids may use: the model's
  std::string haystack;  // text to hide things in, as clean_haystack() gives it; may be empty
  uint64_t seed = 0;
  // Part of what is drawn from: examples of different purposes share nothing, so that a model is
  // not tested on what it was taught.
  std::string purpose = "evaluation";
  bool bos = false;  // start prompts with the tokenizer's BOS
};

struct TaskExample {
  std::vector<int32_t> tokens;  // what the model reads; tokens + new_tokens <= length
  // Scored by generation: at most new_tokens are generated, and Task::score compares their text
  // with the references.
  int64_t new_tokens = 0;
  std::vector<std::string> references;
  // Scored by one forward pass instead, if not empty: [tokens], the token that should follow each
  // token, or -1 where nothing is asked.
  std::vector<int32_t> targets;
  double depth = 0;  // where it is hidden: 0 the beginning, 1 the end

  // As text, for training documents and for reading; empty for tasks made of ids.
  std::string prompt;
  std::string answer;  // continues the prompt as a model should
  // Byte ranges [begin, end) of prompt + answer that memory alone decides.
  std::vector<std::pair<int64_t, int64_t>> answers;
};

class Task {
 public:
  virtual ~Task() = default;

  // Whether examples differ by depth. If not, places are drawn, and `depth` is not used.
  virtual bool has_depth() const { return true; }
  // length: tokens that prompt and answer may have together. The prompt is as long as fits.
  // Error{user} saying how many are needed if it is too small.
  virtual TaskExample example(int64_t length, double depth, int64_t sample) const = 0;
  // From 0 to 1, for examples without targets: the mean share of references that the completion
  // contains, whatever the case of letters (RULER's "all").
  virtual double score(const TaskExample& example, std::string_view completion) const;
  // Whether no further text could change the score.
  virtual bool decided(const TaskExample& example, std::string_view completion) const;
};

// Settings as written, e.g. {"needles", "4"}.
using TaskSettings = std::map<std::string, std::string>;

// A kind of task, for help and for checking names.
struct TaskKind {
  std::string name;
  std::string summary;
  std::map<std::string, std::string> settings;  // name: meaning, with the default
  bool is_ruler = false;                        // counts for RULER's averages
  std::unique_ptr<Task> (*make)(const TaskKind&, const TaskSettings&, const TaskSource&);
};
const std::vector<TaskKind>& task_kinds();

// `settings` has known names only. The source must outlive the task. Error{user} if a value makes
// no sense, or if the task needs a tokenizer or a haystack that is not there.
std::unique_ptr<Task> make_task(const TaskKind& kind, const TaskSettings& settings,
                                const TaskSource& source);

// Text with every run of white space turned into one space (as RULER does with its essays).
std::string clean_haystack(std::string_view text);
// The texts of a file or folder, joined and cleaned; reading stops after max_bytes.
// Error{environment} if there is no text.
std::string read_haystack(const std::string& path, uint64_t max_bytes = uint64_t{64} << 20);

}  // namespace sidewinder
