#pragma once
// The one exception type and the exit codes of the program.
//
// An Error says who has to act: the user (a wrong recipe or argument), the environment (a missing
// file, a full disk, damaged data) or us (a bug). The message has three parts: what was found, what
// was needed, what to do.

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace sidewinder {

enum class ExitCode : int {
  success = 0,
  below_bar = 1,     // of a benchmark, if that was to be checked
  user = 2,          // wrong recipe, argument or input
  environment = 3,   // missing or damaged file, full disk, missing device
  bug = 70,          // our mistake
  requeue = 75,      // state is saved; start again to continue
  peer_lost = 76,    // another rank is gone
  numeric_stop = 79  // too many non-finite steps
};

enum class Blame { user, environment, bug };

class Error : public std::runtime_error {
 public:
  Error(Blame blame, const std::string& message) : Error(exit_code_of(blame), message) {}
  Error(ExitCode exit_code, const std::string& message)
      : std::runtime_error(message), exit_code_(exit_code) {}

  ExitCode exit_code() const { return exit_code_; }

 private:
  static ExitCode exit_code_of(Blame blame) {
    switch (blame) {
      case Blame::user: return ExitCode::user;
      case Blame::environment: return ExitCode::environment;
      case Blame::bug: break;
    }
    return ExitCode::bug;
  }

  ExitCode exit_code_;
};

template <typename... Parts>
[[noreturn]] void fail_user(fmt::format_string<Parts...> message, Parts&&... parts) {
  throw Error(Blame::user, fmt::format(message, std::forward<Parts>(parts)...));
}

template <typename... Parts>
[[noreturn]] void fail_environment(fmt::format_string<Parts...> message, Parts&&... parts) {
  throw Error(Blame::environment, fmt::format(message, std::forward<Parts>(parts)...));
}

}  // namespace sidewinder
