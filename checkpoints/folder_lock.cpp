#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "checkpoints/durable.h"
#include "checkpoints/store.h"
#include "kernels/base/error.h"

namespace sidewinder {
namespace {

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  return name;
}

// What the holder wrote about itself.
std::string holder_of(int descriptor) {
  char text[512] = {};
  const ssize_t length = ::pread(descriptor, text, sizeof(text) - 1, 0);
  std::string result = length > 0 ? std::string(text, static_cast<size_t>(length)) : "";
  while (!result.empty() && result.back() == '\n') result.pop_back();
  return result.empty() ? "another process" : result;
}

}  // namespace

FolderLock::FolderLock(const std::string& folder) : folder_(folder) {
  create_folder(folder);
  const std::string path = folder + "/LOCK";
  // Checkpoints are new names beside the lock, which may be there to write where they may not.
  const bool takes_names = ::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0;
  if (takes_names) descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    fail_environment("{}: cannot be written: {}; allow it, or use another folder ([run] folder)",
                     takes_names ? path : folder, std::strerror(errno));
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int code = errno;
    const std::string holder = holder_of(descriptor_);
    ::close(descriptor_);
    if (code != EWOULDBLOCK) {
      fail_environment("{}: cannot lock: {}; the run folder must lie on a file system with locks",
                       path, std::strerror(code));
    }
    fail_user(
        "{} is in use by {}; wait until it has ended, stop it, or use another folder ([run] "
        "folder)",
        folder, holder);
  }
  const std::string self = fmt::format("process {} on {}\n", ::getpid(), host_name());
  const bool written =
      ::ftruncate(descriptor_, 0) == 0 &&
      ::pwrite(descriptor_, self.data(), self.size(), 0) == static_cast<ssize_t>(self.size());
  // The text only serves the message of another process, so a full disk does not matter here.
  static_cast<void>(written);
}

FolderLock::~FolderLock() {
  const bool emptied = ::ftruncate(descriptor_, 0) == 0;
  static_cast<void>(emptied);
  ::close(descriptor_);
}

}  // namespace sidewinder
