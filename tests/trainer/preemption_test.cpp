#include "trainer/preemption.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <utility>

namespace sidewinder {
namespace {

// Runs `body` in a child process and returns what it returns, or minus the signal that ended it.
int in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    ::close(STDERR_FILENO);  // the handler's message
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(StopRequest, TheFirstSignalIsRemembered) {
  const std::pair<int, const char*> signals[] = {
      {SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGHUP, "SIGHUP"}};
  for (const auto& signal : signals) {
    EXPECT_EQ(in_child([&] {
                const StopRequest stop;
                if (stop.requested() || std::string(stop.signal_name()) != "none") return 1;
                raise(signal.first);
                if (!stop.requested()) return 2;
                return std::string(stop.signal_name()) == signal.second ? 0 : 3;
              }),
              0);
  }
}

// As under nohup(1).
TEST(StopRequest, ASignalThatWasIgnoredStaysSo) {
  EXPECT_EQ(in_child([] {
              signal(SIGHUP, SIG_IGN);
              {
                const StopRequest stop;
                raise(SIGHUP);
                if (stop.requested()) return 1;
                raise(SIGTERM);
                if (!stop.requested()) return 2;
              }
              return raise(SIGHUP);
            }),
            0);
}

TEST(StopRequest, ASecondSignalLaterEndsTheProcess) {
  EXPECT_EQ(in_child([&] {
              const StopRequest stop;
              raise(SIGTERM);
              usleep(1100000);
              // A child of its own has waited as long.
              if (in_child([] { return raise(SIGTERM); }) != 128 + SIGTERM) return 1;
              return raise(SIGINT);
            }),
            128 + SIGINT);
}

TEST(StopRequest, AnEchoOfTheFirstSignalIsIgnored) {
  EXPECT_EQ(in_child([&] {
              const StopRequest stop;
              raise(SIGTERM);
              raise(SIGTERM);
              raise(SIGINT);
              return std::string(stop.signal_name()) == "SIGTERM" ? 0 : 1;
            }),
            0);
}

TEST(StopRequest, FormerHandlersComeBackAndEachRequestBeginsAnew) {
  EXPECT_EQ(in_child([&] {
              {
                const StopRequest stop;
                raise(SIGTERM);
              }
              {
                const StopRequest stop;
                if (stop.requested()) return 1;
              }
              raise(SIGTERM);
              return 2;
            }),
            -SIGTERM);
}

TEST(StopRequest, SystemCallsGoOn) {
  EXPECT_EQ(in_child([&] {
              const StopRequest stop;
              int ends[2];
              if (pipe(ends) != 0) return 1;
              const pid_t parent = getpid();
              if (fork() == 0) {
                usleep(50000);
                kill(parent, SIGTERM);
                usleep(50000);
                _exit(write(ends[1], "x", 1) == 1 ? 0 : 1);
              }
              char byte = 0;
              const bool got = read(ends[0], &byte, 1) == 1;
              return got && stop.requested() ? 0 : 2;
            }),
            0);
}

}  // namespace
}  // namespace sidewinder
