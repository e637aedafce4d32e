#include "trainer/metrics.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <fstream>
#include <optional>
#include <string_view>

#include "checkpoints/durable.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "trainer/tensorboard.h"

namespace sidewinder {
namespace {

constexpr std::string_view kLineBegin = "{\"step\":";

double now_seconds() {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since_epoch).count();
}

// The step of a whole line; nullopt for what a dying process left.
std::optional<int64_t> step_of(std::string_view line) {
  if (line.substr(0, kLineBegin.size()) != kLineBegin || line.back() != '}') return std::nullopt;
  int64_t step = 0;
  const char* begin = line.data() + kLineBegin.size();
  const auto [end, problem] = std::from_chars(begin, line.data() + line.size(), step);
  if (problem != std::errc() || *end != ',') return std::nullopt;
  return step;
}

// Rewrites the file without the records after `resume_step` and without broken lines, if any.
void cut_after(const std::string& path, int64_t resume_step) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return;
  std::string kept;
  bool whole = true;
  for (std::string line; std::getline(file, line);) {
    const std::optional<int64_t> step = step_of(line);
    if (step && *step <= resume_step && !file.eof()) {
      kept += line + '\n';
    } else {
      whole = false;
    }
  }
  if (!whole) replace_file(path, kept);
}

// An append-only file. What could not be written whole is taken back.
class RecordFile {
 public:
  explicit RecordFile(const std::string& path)
      : path_(path), file_(path, O_WRONLY | O_CREAT | O_APPEND), bytes_(file_.bytes()) {}

  void append(std::string_view text) {
    try {
      file_.write(text);
      bytes_ += text.size();
    } catch (const Error& error) {
      const bool taken_back = ::ftruncate(file_.descriptor(), static_cast<off_t>(bytes_)) == 0;
      if (!warned_) {
        log_warning("{}; training goes on without these records{}", error.what(),
                    taken_back ? "" : " (the file ends with a broken one)");
      }
      warned_ = true;
    }
  }

 private:
  std::string path_;
  OpenFile file_;
  uint64_t bytes_ = 0;
  bool warned_ = false;
};

std::string lines_path(const std::string& folder, int64_t resume_step) {
  create_folder(folder);
  std::string path = folder + "/metrics.jsonl";
  cut_after(path, resume_step);
  return path;
}

// TensorBoard reads the event files of a folder in the order of their names.
std::string events_path(const std::string& folder) {
  create_folder(folder + "/tensorboard");
  char host[256] = {};
  if (::gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  const auto nanoseconds = std::chrono::system_clock::now().time_since_epoch().count();
  return fmt::format("{}/tensorboard/events.out.tfevents.{:010}.{}.{}.{:09}", folder,
                     nanoseconds / 1000000000, host, ::getpid(), nanoseconds % 1000000000);
}

}  // namespace

struct MetricsWriter::State {
  State(const std::string& folder, int64_t resume_step)
      : lines(lines_path(folder, resume_step)), events(events_path(folder)) {}

  RecordFile lines;
  RecordFile events;
};

MetricsWriter::MetricsWriter(const std::string& folder, int64_t resume_step)
    : state_(std::make_unique<State>(folder, resume_step)) {
  const double time = now_seconds();
  state_->events.append(tensorboard::record(tensorboard::version_event(time)) +
                        tensorboard::record(tensorboard::start_event(time, resume_step + 1)));
}

MetricsWriter::~MetricsWriter() = default;

void MetricsWriter::write(int64_t step, std::span<const Metric> metrics) {
  const double time = now_seconds();
  std::string line = fmt::format("{}{},\"time\":{:.3f}", kLineBegin, step, time);
  for (const Metric& metric : metrics) {
    line += fmt::format(",{}:", nlohmann::json(metric.name).dump());
    line += std::isfinite(metric.value) ? fmt::format("{}", metric.value) : "null";
  }
  state_->lines.append(line + "}\n");
  state_->events.append(tensorboard::record(tensorboard::scalars_event(time, step, metrics)));
}

}  // namespace sidewinder
