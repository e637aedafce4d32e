#pragma once
// What a run tells people while it trains: on a terminal one line that is drawn anew, otherwise a
// log line every few steps.

#include <chrono>
#include <cstdint>
#include <string>

namespace sidewinder {

struct StepReport;

// Seconds and tokens of a step as an exponential moving average over about the last 20 steps. The
// seconds are those between steps, so validation and saving count towards the time that is left.
class StepRate {
 public:
  void add(double seconds, double tokens);
  double seconds_per_step() const;  // 0 before the first step
  double tokens_per_second() const;

 private:
  double weight_ = 0;
  double seconds_ = 0;
  double tokens_ = 0;
};

// The texts, apart from when and where they are shown.
std::string duration_text(double seconds);  // "1:02:03", "2 d 01:02:03"
std::string plain_text(const StepReport& report, int64_t steps, const StepRate& rate,
                       double peak_flops);
// At most `columns` wide.
std::string bar_text(const StepReport& report, int64_t steps, const StepRate& rate,
                     double peak_flops, int columns);

class ProgressReporter {
 public:
  // The run is at `first_step` of `steps`; plain lines come every `log_every` steps (and for the
  // first and last one).
  ProgressReporter(int64_t first_step, int64_t steps, int64_t log_every);
  ~ProgressReporter();
  ProgressReporter(const ProgressReporter&) = delete;
  ProgressReporter& operator=(const ProgressReporter&) = delete;

  // After each step. `peak_flops` per second is what MFU divides by; 0: none is shown.
  void step(const StepReport& report, double peak_flops);
  // Takes the terminal's line away.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  int64_t first_step_;
  int64_t steps_;
  int64_t log_every_;
  bool terminal_;
  StepRate rate_;
  Clock::time_point last_step_;
  Clock::time_point last_drawn_;
};

}  // namespace sidewinder
