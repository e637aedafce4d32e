#pragma once
// Stopping when asked. A scheduler, Ctrl-C or a lost terminal sends a signal; the loop finishes its
// step, saves and ends with ExitCode::requeue.

namespace sidewinder {

// While it lives, the first SIGTERM, SIGINT or SIGHUP is only remembered and a second one ends the
// process at once with the shell's code for it, 128 + signal number (143, 130 or 129), without
// saving. Repeats within a second count as one: timeout(1) and batch systems signal a process and
// its group. A signal that was ignored stays so (nohup). Output to a terminal that is lost is
// dropped. There can be one StopRequest at a time; afterwards the former handlers are back.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  bool requested() const;
  const char* signal_name() const;  // "SIGTERM", "SIGINT" or "SIGHUP"; "none" if none came
};

}  // namespace sidewinder
