// Dies, or fails, at every single system call of a save. A child process saves under strace, which
// kills it or makes one call fail; afterwards the old or the new checkpoint must be there, whole.

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "checkpoints/store.h"
#include "kernels/base/error.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using testing::same_content;
using testing::sample_content;
using testing::TemporaryFolder;

constexpr const char* kMarker = "/sidewinder-save-begins";
constexpr const char* kFolderVariable = "SIDEWINDER_CRASH_FOLDER";
const CheckpointOptions kOptions{.keep_last = 1};

// The child: not a test by itself.
TEST(CrashChild, SavesOnce) {
  const char* folder = std::getenv(kFolderVariable);
  if (folder == nullptr) GTEST_SKIP() << "not a test by itself: the tests of Crash run it";
  const Store store(folder);
  EXPECT_NE(access(kMarker, F_OK), 0);
  int code = 0;
  try {
    Store(folder).save(sample_content(2), kOptions);
  } catch (const Error& error) {
    code = static_cast<int>(error.exit_code());
  }
  _exit(code);
}

// Runs the child under strace with these options; the exit code, or 128 + the signal.
int run_child(const std::string& folder, const std::string& strace_options) {
  const std::string command = fmt::format(
      "{}={} strace -qq -o {}.trace {} {} "
      "--gtest_filter=CrashChild.SavesOnce > {}.log 2>&1",
      kFolderVariable, folder, folder, strace_options, fs::read_symlink("/proc/self/exe").string(),
      folder);
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Call {
  std::string name;
  int count = 0;  // it is the count-th call of this name in the process, from 1
};

// The calls of the save, in order. Only such as work on files; others may differ between runs.
std::vector<Call> calls_of_a_save(const std::string& trace_path) {
  static const std::set<std::string> kNames = {
      "openat",   "open",    "creat",     "close",      "read",      "pread64",   "write",
      "pwrite64", "fsync",   "fdatasync", "ftruncate",  "rename",    "renameat",  "renameat2",
      "mkdir",    "mkdirat", "unlink",    "unlinkat",   "rmdir",     "fallocate", "statfs",
      "fstatfs",  "lseek",   "fcntl",     "newfstatat", "getdents64"};
  std::vector<Call> calls;
  std::map<std::string, int> counts;
  bool saving = false;
  std::ifstream trace(trace_path);
  for (std::string line; std::getline(trace, line);) {
    const std::string name = line.substr(0, line.find('('));
    if (line.find(kMarker) != std::string::npos) saving = true;
    if (kNames.count(name) == 0) continue;
    const int count = ++counts[name];
    if (saving) calls.push_back({name, count});
  }
  return calls;
}

class Crash : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("strace -qq -e inject=getpid:error=EIO true > /dev/null 2>&1") != 0) {
      GTEST_SKIP() << "strace is not installed or may not trace here";
    }
    fs::create_directory(folder_);
    Store(folder_).save(sample_content(1), kOptions);
    const std::string trial = prepare();
    ASSERT_EQ(run_child(trial, "-e signal=none"), 0) << testing::file_text(trial + ".log");
    calls_ = calls_of_a_save(trial + ".trace");
    ASSERT_GT(calls_.size(), 50U);
  }

  // A copy of the store with checkpoint 1.
  std::string prepare() const {
    std::string trial = outer_ / "trial";
    fs::remove_all(trial);
    fs::copy(folder_, trial, fs::copy_options::recursive);
    return trial;
  }

  // The step of the sound checkpoint found afterwards. Nothing may be damaged, and saving must
  // work.
  static int64_t step_afterwards(const std::string& trial, const std::string& what) {
    const Store store(trial);
    const auto loaded = store.load_newest();
    if (!loaded || !same_content(*loaded, sample_content(loaded->step))) {
      ADD_FAILURE() << what << ": nothing sound is left";
      return -1;
    }
    for (const auto& entry : fs::directory_iterator(trial)) {
      const std::string name = entry.path().filename().string();
      EXPECT_EQ(name.substr(0, 5), "step-") << what;
    }
    Store(trial).save(sample_content(3), kOptions);
    EXPECT_TRUE(same_content(*store.load_newest(), sample_content(3))) << what;
    return loaded->step;
  }

  TemporaryFolder outer_;
  std::string folder_ = outer_ / "store";
  std::vector<Call> calls_;
};

TEST_F(Crash, AKillAtEverySystemCallLeavesAWholeCheckpoint) {
  std::map<int64_t, int> steps;
  for (const Call& call : calls_) {
    const std::string trial = prepare();
    const std::string what = fmt::format("kill at {} {}", call.name, call.count);
    const int code = run_child(trial, fmt::format("-e trace={0} -e inject={0}:signal=KILL:when={1}",
                                                  call.name, call.count));
    EXPECT_EQ(code, 128 + SIGKILL) << what;
    ++steps[step_afterwards(trial, what)];
  }
  fmt::print("{} kills: {} times the old checkpoint, {} times the new one\n", calls_.size(),
             steps[1], steps[2]);
  EXPECT_GT(steps[1], 0);
  EXPECT_GT(steps[2], 0);
}

TEST_F(Crash, AnErrorAtEverySystemCallIsReportedAndLeavesAWholeCheckpoint) {
  int reported = 0;
  int harmless = 0;
  for (const char* error : {"ENOSPC", "EIO"}) {
    for (const Call& call : calls_) {
      const std::string trial = prepare();
      const std::string what = fmt::format("{} at {} {}", error, call.name, call.count);
      const int code = run_child(trial, fmt::format("-e trace={0} -e inject={0}:error={1}:when={2}",
                                                    call.name, error, call.count));
      // A save that reports success has made checkpoint 2 the newest.
      ASSERT_TRUE(code == 0 || code == static_cast<int>(ExitCode::environment))
          << what << " " << code;
      ++(code == 0 ? harmless : reported);
      const int64_t step = step_afterwards(trial, what);
      if (code == 0) {
        EXPECT_EQ(step, 2) << what;
      }
    }
  }
  fmt::print("{} errors: {} reported, {} without effect on the result\n", 2 * calls_.size(),
             reported, harmless);
  EXPECT_GT(reported, 50);
}

}  // namespace
}  // namespace sidewinder
