#include "trainer/task_evaluation.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr int64_t kPrefillTokens = 8192;  // read at once, which bounds the memory of long prompts
constexpr int64_t kBatchTokens = 8192;    // of examples that are scored together

template <typename T>
int32_t largest(const T* values, int64_t count) {
  return static_cast<int32_t>(std::max_element(values, values + count) - values);
}

// The most likely of the first `count` ids in a row of logits; the first of equals.
int32_t most_likely(const Tensor& logits, int64_t row, int64_t vocabulary, int64_t count) {
  if (logits.dtype() == Dtype::f64) return largest(logits.data<double>() + row * vocabulary, count);
  return largest(logits.data<float>() + row * vocabulary, count);
}

std::string complete(HybridModel& model, Dtype dtype, const Tokenizer& tokenizer, const Task& task,
                     const TaskExample& example) {
  GenerationState state;
  Tensor logits;
  for (size_t begin = 0; begin < example.tokens.size(); begin += kPrefillTokens) {
    const size_t end = std::min(example.tokens.size(), begin + kPrefillTokens);
    logits = model.next_logits(dtype,
                               {example.tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                example.tokens.begin() + static_cast<std::ptrdiff_t>(end)},
                               state);
  }
  std::vector<int32_t> made;
  std::string text;
  while (static_cast<int64_t>(made.size()) < example.new_tokens) {
    // A model may have more ids than its tokenizer, which then have no text.
    const int64_t vocabulary = model.options().vocabulary;
    const int32_t id =
        most_likely(logits, 0, vocabulary, std::min(vocabulary, tokenizer.vocabulary()));
    if (id == tokenizer.eos()) break;
    made.push_back(id);
    text = tokenizer.decode(made);
    if (task.decided(example, text)) break;
    if (static_cast<int64_t>(made.size()) < example.new_tokens) {
      logits = model.next_logits(dtype, {id}, state);
    }
  }
  return text;
}

// Examples of one length with targets, as rows of one batch.
std::vector<double> score_in_one_pass(HybridModel& model, Dtype dtype,
                                      const std::vector<TaskExample>& examples) {
  const auto rows = static_cast<int64_t>(examples.size());
  size_t row_length = 0;
  for (const TaskExample& example : examples) {
    row_length = std::max(row_length, example.tokens.size());
  }
  std::vector<int32_t> tokens;
  for (const TaskExample& example : examples) {
    tokens.insert(tokens.end(), example.tokens.begin(), example.tokens.end());
    tokens.resize(tokens.size() + row_length - example.tokens.size());  // behind all that counts
  }
  const SequenceLayout layout = SequenceLayout::unpacked(rows, static_cast<int64_t>(row_length));
  const Tensor logits =
      model.logits(dtype, {layout, layout},
                   Tensor::from<int32_t>({static_cast<int64_t>(tokens.size())}, tokens));
  const int64_t vocabulary = model.options().vocabulary;
  std::vector<double> scores;
  for (size_t i = 0; i < examples.size(); ++i) {
    int64_t asked = 0;
    int64_t right = 0;
    for (size_t t = 0; t < examples[i].targets.size(); ++t) {
      if (examples[i].targets[t] < 0) continue;
      ++asked;
      const auto row = static_cast<int64_t>(i * row_length + t);
      if (most_likely(logits, row, vocabulary, vocabulary) == examples[i].targets[t]) ++right;
    }
    scores.push_back(static_cast<double>(right) / static_cast<double>(asked));
  }
  return scores;
}

}  // namespace

void check_tasks(const std::vector<const Task*>& tasks, const TaskGrid& grid) {
  SIDEWINDER_REQUIRE(
      !grid.lengths.empty() && !grid.depths.empty() && grid.trials >= 1,
      "there are {} lengths, {} depths and {} trials; at least one of each is needed",
      grid.lengths.size(), grid.depths.size(), grid.trials);
  const int64_t shortest = *std::min_element(grid.lengths.begin(), grid.lengths.end());
  for (const Task* task : tasks) {
    for (const double depth : grid.depths) {
      for (int64_t sample = 0; sample < grid.trials; ++sample)
        task->example(shortest, depth, sample);
      if (!task->has_depth()) break;
    }
  }
}

std::vector<TaskCell> evaluate_task(HybridModel& model, Dtype dtype, const Tokenizer& tokenizer,
                                    const Task& task, const TaskGrid& grid,
                                    const std::function<void(const TaskTrial&)>& after_trial) {
  std::vector<TaskCell> cells;
  for (const int64_t length : grid.lengths) {
    for (const double depth : grid.depths) {
      TaskCell cell{length, depth, grid.trials, 0};
      const auto finished = [&](const TaskExample& example, int64_t sample, double score,
                                const std::string& completion) {
        cell.score += score;
        if (after_trial) {
          after_trial({length, depth, sample, completion, example.references, score});
        }
      };
      std::vector<TaskExample> together;
      for (int64_t sample = 0; sample < grid.trials; ++sample) {
        TaskExample example = task.example(length, depth, sample);
        if (example.targets.empty()) {
          const std::string completion = complete(model, dtype, tokenizer, task, example);
          finished(example, sample, task.score(example, completion), completion);
          continue;
        }
        together.push_back(std::move(example));
        const auto count = static_cast<int64_t>(together.size());
        if (sample + 1 < grid.trials && (count + 1) * length <= kBatchTokens) continue;
        const std::vector<double> scores = score_in_one_pass(model, dtype, together);
        for (size_t i = 0; i < scores.size(); ++i) {
          finished(together[i], sample + 1 - count + static_cast<int64_t>(i), scores[i], "");
        }
        together.clear();
      }
      cell.score /= static_cast<double>(grid.trials);
      cells.push_back(cell);
      if (!task.has_depth()) break;
    }
  }
  return cells;
}

}  // namespace sidewinder
