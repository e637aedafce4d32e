#pragma once
// The log: one line per event on standard error, with time and level. The only global besides the
// thread pool.

#include <fmt/core.h>

#include <string>
#include <utility>

namespace sidewinder {

enum class LogLevel { info, warning, error };

void log_line(LogLevel level, const std::string& text);
// Whether standard error, where the log goes, is a terminal.
bool log_is_terminal();
// Keeps `text` (shorter than the terminal is wide) as the last line of the terminal, below all log
// lines; empty takes it away. Does nothing where standard error is not a terminal.
void set_status_line(const std::string& text);
// Copies every further line into `path` as well (appended). Throws Error{environment}.
void log_to_file(const std::string& path);

template <typename... Parts>
void log_info(fmt::format_string<Parts...> message, Parts&&... parts) {
  log_line(LogLevel::info, fmt::format(message, std::forward<Parts>(parts)...));
}
template <typename... Parts>
void log_warning(fmt::format_string<Parts...> message, Parts&&... parts) {
  log_line(LogLevel::warning, fmt::format(message, std::forward<Parts>(parts)...));
}

}  // namespace sidewinder
