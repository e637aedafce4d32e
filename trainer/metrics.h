#pragma once
// Numbers of a run over its steps, for people and programs: one JSON object a line in
// metrics.jsonl, and the same in TensorBoard's event files.

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace sidewinder {

struct Metric {
  std::string name;  // "train/loss"
  double value = 0;
};

class MetricsWriter {
 public:
  // Appends to folder/metrics.jsonl and begins an event file in folder/tensorboard. Records after
  // `resume_step` are what an interrupted run did after its last checkpoint; they are cut (in one
  // step), so that the file of a resumed run equals that of an undisturbed one apart from times.
  // Throws Error{environment} if the files cannot be made.
  MetricsWriter(const std::string& folder, int64_t resume_step);
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;

  // One record: {"step": …, "time": seconds since 1970, name: value, …}; values that are not finite
  // become null. It reaches the operating system before this returns. Failures are reported as a
  // warning once, and never stop training.
  void write(int64_t step, std::span<const Metric> metrics);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sidewinder
