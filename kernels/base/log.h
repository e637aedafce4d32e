#pragma once
// The log: one line per event on standard error, with time and level. The only global besides the
// thread pool.

#include <fmt/core.h>

#include <string>
#include <utility>

namespace sidewinder {

enum class LogLevel { debug, info, warning, error };

void set_log_level(LogLevel level);
void log_line(LogLevel level, const std::string& text);
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
