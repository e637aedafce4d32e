#include "kernels/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <mutex>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>(
        "sidewinder", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%Y-%m-%d %H:%M:%S %^%L%$ %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: break;
  }
  return spdlog::level::err;
}

// The line below the log. Only drawn on a terminal.
struct StatusLine {
  std::mutex mutex;
  std::string text;

  void erase() const {
    if (!text.empty()) std::fputs("\r\033[K", stderr);
  }
  void draw() const {
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
  }
};

StatusLine& status_line() {
  static StatusLine instance;
  return instance;
}

}  // namespace

void log_line(LogLevel level, const std::string& text) {
  StatusLine& status = status_line();
  const std::lock_guard<std::mutex> lock(status.mutex);
  status.erase();
  logger().log(level_of(level), "{}", text);
  status.draw();
}

bool log_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

void set_status_line(const std::string& text) {
  if (!log_is_terminal()) return;
  StatusLine& status = status_line();
  const std::lock_guard<std::mutex> lock(status.mutex);
  status.erase();
  status.text = text;
  status.draw();
}

void log_to_file(const std::string& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path, false);
    sink->set_pattern("%Y-%m-%d %H:%M:%S %L %v");
    logger().sinks().push_back(std::move(sink));
  } catch (const spdlog::spdlog_ex& problem) {
    fail_environment(
        "cannot open the log file {}: {}; check that the folder exists and is writable", path,
        problem.what());
  }
}

}  // namespace sidewinder
