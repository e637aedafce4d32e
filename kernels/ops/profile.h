#pragma once
// Where the time of a step goes: calls, seconds and FLOPs per operation, gathered while profiling
// is on. A multiply-add counts as two. Counted are products, attention (2 products of scores and
// values, 4 backward; forming the scores again does not count), convolutions and scans, by the
// formulas of model/cost.h.

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace sidewinder {

struct OperationTime {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
  double busy_seconds = 0;  // of all threads on work items
  double flops = 0;
};

// Turning it on forgets what was gathered before.
void set_profiling(bool on);
bool profiling();
// Longest first.
std::vector<OperationTime> operation_times();

// Adds the time until its end, and `flops`, to `name` (a literal), if profiling is on.
class OperationTimer {
 public:
  explicit OperationTimer(const char* name, double flops = 0)
      : name_(profiling() ? name : nullptr), flops_(flops) {
    if (name_ != nullptr) begin();
  }
  ~OperationTimer() {
    if (name_ != nullptr) add();
  }
  OperationTimer(const OperationTimer&) = delete;
  OperationTimer& operator=(const OperationTimer&) = delete;

 private:
  void begin();
  void add() const;

  const char* name_;
  double flops_;
  double busy_before_ = 0;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace sidewinder
