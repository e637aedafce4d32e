#include "trainer/preemption.h"

#include <fcntl.h>
#include <signal.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <iterator>
#include <string_view>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP};
constexpr int64_t kRepeatMilliseconds = 1000;

std::atomic<bool> installed = false;
std::atomic<int> first_signal = 0;
std::atomic<int64_t> first_time = 0;  // milliseconds of the monotonic clock
struct sigaction former[std::size(kSignals)];

static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free,
              "a signal handler may only touch lock-free values");

int64_t milliseconds() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

void say(std::string_view text) {
  const ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
  static_cast<void>(ignored);
}

// What is still written to a terminal that is gone goes nowhere, instead of failing.
void leave_lost_terminal() {
  for (const int output : {STDOUT_FILENO, STDERR_FILENO}) {
    termios settings;
    if (::tcgetattr(output, &settings) == 0 || errno != EIO) continue;
    const int nowhere = ::open("/dev/null", O_WRONLY);
    if (nowhere >= 0) ::dup2(nowhere, output);
    ::close(nowhere);
  }
}

extern "C" void remember_signal(int signal) {
  const int saved_errno = errno;
  if (signal == SIGHUP) leave_lost_terminal();
  int none = 0;
  if (first_signal.compare_exchange_strong(none, signal)) {
    first_time = milliseconds();
    say("\nstopping after this step; the state will be saved (signal again to stop without)\n");
  } else if (milliseconds() - first_time > kRepeatMilliseconds) {
    ::_exit(128 + signal);
  }
  errno = saved_errno;
}

}  // namespace

StopRequest::StopRequest() {
  SIDEWINDER_ASSERT(!installed.exchange(true));
  first_signal = 0;
  struct sigaction action = {};
  action.sa_handler = &remember_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : kSignals) sigaddset(&action.sa_mask, signal);
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    ::sigaction(kSignals[i], nullptr, &former[i]);
    if (former[i].sa_handler != SIG_IGN) ::sigaction(kSignals[i], &action, nullptr);
  }
}

StopRequest::~StopRequest() {
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    ::sigaction(kSignals[i], &former[i], nullptr);
  }
  installed = false;
}

bool StopRequest::requested() const { return first_signal != 0; }

const char* StopRequest::signal_name() const {
  switch (first_signal) {
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    case SIGHUP: return "SIGHUP";
    default: return "none";
  }
}

}  // namespace sidewinder
