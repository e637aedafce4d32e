#include "trainer/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "kernels/base/log.h"
#include "trainer/trainer.h"

namespace sidewinder {
namespace {

constexpr double kDecay = 0.95;  // of the weight of a step with every later one
constexpr int kBarWidth = 24;
constexpr auto kRedrawInterval = std::chrono::milliseconds(100);

int terminal_columns() {
  winsize size = {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

double mfu_of(const StepReport& report, double peak_flops) {
  return report.flops / report.seconds / peak_flops;
}

std::string short_count(double value) {
  if (value >= 1e6) return fmt::format("{:.2f}M", value * 1e-6);
  if (value >= 1e3) return fmt::format("{:.1f}k", value * 1e-3);
  return fmt::format("{:.0f}", value);
}

double seconds_left(const StepReport& report, int64_t steps, const StepRate& rate) {
  return static_cast<double>(std::max<int64_t>(0, steps - report.step)) * rate.seconds_per_step();
}

}  // namespace

void StepRate::add(double seconds, double tokens) {
  weight_ = kDecay * weight_ + 1;
  seconds_ = kDecay * seconds_ + seconds;
  tokens_ = kDecay * tokens_ + tokens;
}

double StepRate::seconds_per_step() const { return weight_ == 0 ? 0 : seconds_ / weight_; }

double StepRate::tokens_per_second() const { return seconds_ == 0 ? 0 : tokens_ / seconds_; }

std::string duration_text(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  const int64_t days = total / 86400;
  const int64_t hours = total / 3600 % 24;
  const int64_t minutes = total / 60 % 60;
  if (days > 0) return fmt::format("{} d {:02}:{:02}:{:02}", days, hours, minutes, total % 60);
  return fmt::format("{}:{:02}:{:02}", hours, minutes, total % 60);
}

std::string plain_text(const StepReport& report, int64_t steps, const StepRate& rate,
                       double peak_flops) {
  std::string text = fmt::format(
      "step {} of {}: loss {:.4f}, gradient norm {:.3f}, learning rate {:.3e}, {:.0f} tokens/s",
      report.step, steps, report.loss, report.gradient_norm, report.learning_rate,
      rate.tokens_per_second());
  if (peak_flops > 0) text += fmt::format(", MFU {:.1f} %", 100 * mfu_of(report, peak_flops));
  return text + fmt::format(", {} left", duration_text(seconds_left(report, steps, rate)));
}

std::string bar_text(const StepReport& report, int64_t steps, const StepRate& rate,
                     double peak_flops, int columns) {
  const double share =
      static_cast<double>(report.step) / static_cast<double>(std::max<int64_t>(1, steps));
  const int full = static_cast<int>(kBarWidth * std::min(1.0, share));
  std::string text = fmt::format(
      "[{}{}] {}/{}  loss {:.4f}  lr {:.2e}  {} tok/s", std::string(static_cast<size_t>(full), '#'),
      std::string(static_cast<size_t>(kBarWidth - full), '-'), report.step, steps, report.loss,
      report.learning_rate, short_count(rate.tokens_per_second()));
  if (peak_flops > 0) text += fmt::format("  MFU {:.0f} %", 100 * mfu_of(report, peak_flops));
  text += fmt::format("  ETA {}", duration_text(seconds_left(report, steps, rate)));
  return text.substr(0, static_cast<size_t>(std::max(0, columns)));
}

ProgressReporter::ProgressReporter(int64_t first_step, int64_t steps, int64_t log_every)
    : first_step_(first_step),
      steps_(steps),
      log_every_(std::max<int64_t>(1, log_every)),
      terminal_(log_is_terminal()),
      last_step_(Clock::now()) {}

ProgressReporter::~ProgressReporter() { finish(); }

void ProgressReporter::step(const StepReport& report, double peak_flops) {
  const Clock::time_point now = Clock::now();
  rate_.add(std::chrono::duration<double>(now - last_step_).count(),
            static_cast<double>(report.row_slots));
  last_step_ = now;
  if (!terminal_) {
    if (report.step == first_step_ + 1 || report.step == steps_ || report.step % log_every_ == 0) {
      log_info("{}", plain_text(report, steps_, rate_, peak_flops));
    }
    return;
  }
  if (now - last_drawn_ < kRedrawInterval && report.step != steps_) return;
  last_drawn_ = now;
  set_status_line(bar_text(report, steps_, rate_, peak_flops, terminal_columns() - 1));
}

void ProgressReporter::finish() {
  if (terminal_) set_status_line("");
}

}  // namespace sidewinder
