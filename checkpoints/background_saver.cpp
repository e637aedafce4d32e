#include "checkpoints/background_saver.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/log.h"

namespace sidewinder {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

bool fits(const std::vector<NamedTensor>& copies, const std::vector<NamedTensor>& tensors) {
  if (copies.size() != tensors.size()) return false;
  for (size_t i = 0; i < copies.size(); ++i) {
    const Tensor& copy = copies[i].tensor;
    const Tensor& tensor = tensors[i].tensor;
    if (copy.shape() != tensor.shape() || copy.dtype() != tensor.dtype()) return false;
  }
  return true;
}

std::vector<NamedTensor> room_for(const std::vector<NamedTensor>& tensors) {
  std::vector<NamedTensor> copies;
  copies.reserve(tensors.size());
  for (const NamedTensor& entry : tensors) {
    SIDEWINDER_REQUIRE(entry.tensor.defined(), "checkpoint: tensor {} has no storage", entry.name);
    copies.push_back({entry.name, Tensor::empty(entry.tensor.shape(), entry.tensor.dtype())});
  }
  return copies;
}

}  // namespace

struct BackgroundSaver::State {
  enum class Work : uint8_t { none, touch, write };

  Store store;
  const CheckpointOptions options;

  // Of the thread while there is work, otherwise of the caller.
  CheckpointContent copy;

  mutable std::mutex mutex;
  std::condition_variable changed;
  Work work = Work::none;
  bool stopping = false;
  std::exception_ptr error;
  SaveTimes times;
  int64_t newest_step = -1;
  std::thread thread;

  State(const std::string& folder, const CheckpointOptions& checkpoint_options)
      : store(folder), options(checkpoint_options), thread([this] { run(); }) {}

  // What runs here must not call the thread pool, or training would lose its threads to it.
  void run() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || work != Work::none; });
      if (work == Work::none) return;
      const Work now = work;
      lock.unlock();
      if (now == Work::touch) {
        for (const NamedTensor& entry : copy.tensors) {
          std::memset(entry.tensor.raw(), 0, entry.tensor.bytes());
        }
      } else {
        write(copy);
      }
      lock.lock();
      work = Work::none;
      changed.notify_all();
    }
  }

  void write(const CheckpointContent& content) {
    const Clock::time_point begin = Clock::now();
    std::exception_ptr failure;
    try {
      store.save(content, options);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard<std::mutex> lock(mutex);
    times.write_seconds = seconds_since(begin);
    error = failure;
    if (!failure) newest_step = content.step;
  }

  void start(Work what) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      work = what;
    }
    changed.notify_all();
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return work == Work::none; });
    throw_error();
  }

  void throw_error() {
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }
};

BackgroundSaver::BackgroundSaver(const std::string& folder, const CheckpointOptions& options)
    : state_(std::make_unique<State>(folder, options)) {}

BackgroundSaver::~BackgroundSaver() {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  state_->thread.join();  // after the work that it has
  try {
    state_->throw_error();
  } catch (const std::exception& failure) {
    log_line(LogLevel::error, fmt::format("a checkpoint was not saved: {}", failure.what()));
  }
}

void BackgroundSaver::reserve(const CheckpointContent& content) {
  state_->wait();
  if (fits(state_->copy.tensors, content.tensors)) return;
  state_->copy.tensors = room_for(content.tensors);
  state_->start(State::Work::touch);
}

void BackgroundSaver::save(const CheckpointContent& content) {
  state_->wait();
  const Clock::time_point begin = Clock::now();
  CheckpointContent& copy = state_->copy;
  if (!fits(copy.tensors, content.tensors)) copy.tensors = room_for(content.tensors);
  for (size_t i = 0; i < content.tensors.size(); ++i) {
    copy.tensors[i].name = content.tensors[i].name;
    copy.tensors[i].tensor.copy_from(content.tensors[i].tensor);
  }
  copy.step = content.step;
  copy.state = content.state;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->times.copy_seconds = seconds_since(begin);
  }
  state_->start(State::Work::write);
}

void BackgroundSaver::save_now(const CheckpointContent& content) {
  state_->wait();
  state_->write(content);
  check();
}

void BackgroundSaver::check() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->throw_error();
}

void BackgroundSaver::finish() { state_->wait(); }

int64_t BackgroundSaver::newest_step() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->newest_step;
}

SaveTimes BackgroundSaver::times() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->times;
}

}  // namespace sidewinder
