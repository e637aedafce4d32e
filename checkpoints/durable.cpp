#include "checkpoints/durable.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

constexpr size_t kMaxTransfer = size_t{64} << 20;

[[noreturn]] void fail(const std::string& path, const char* action) {
  const int code = errno;
  fail_environment("{}: cannot {}: {}", path, action, std::strerror(code));
}

std::string folder_of(const std::string& path) {
  std::filesystem::path folder = path;
  if (!folder.has_filename()) folder = folder.parent_path();  // "runs/" is "runs"
  folder = folder.parent_path();
  return folder.empty() ? "." : folder.string();
}

}  // namespace

OpenFile::OpenFile(const std::string& path, int flags, unsigned mode) : path_(path) {
  do {
    descriptor_ = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) fail(path, (flags & O_CREAT) != 0 ? "create the file" : "open the file");
}

OpenFile::~OpenFile() { ::close(descriptor_); }

uint64_t OpenFile::bytes() const {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) fail(path_, "read the size");
  return static_cast<uint64_t>(status.st_size);
}

void OpenFile::write(std::string_view text) const {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor_, text.data(), std::min(text.size(), kMaxTransfer));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path_, "write");
    text.remove_prefix(static_cast<size_t>(written));
  }
}

bool OpenFile::read(void* data, size_t bytes, uint64_t offset) const {
  char* target = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got =
        ::pread(descriptor_, target, std::min(bytes, kMaxTransfer), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path_, "read");
    if (got == 0) return false;
    target += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

void OpenFile::flush() const {
  while (::fsync(descriptor_) != 0) {
    if (errno != EINTR) fail(path_, "flush to the disk");
  }
}

void create_folder(const std::string& folder) {
  std::error_code problem;
  if (std::filesystem::is_directory(folder, problem)) return;
  const std::string above = folder_of(folder);
  if (above != folder && !path_exists(above)) create_folder(above);
  if (!std::filesystem::create_directory(folder, problem) && problem) {
    fail_environment("{}: cannot create the folder: {}", folder, problem.message());
  }
  if (!std::filesystem::is_directory(folder, problem)) {
    fail_environment("{}: is in the way of a folder of that name", folder);
  }
  flush_path(above);
}

void flush_path(const std::string& path) { OpenFile(path, O_RDONLY).flush(); }

void write_new_file(const std::string& path, std::string_view content) {
  const OpenFile file(path, O_WRONLY | O_CREAT | O_EXCL);
  file.write(content);
  file.flush();
}

void replace_file(const std::string& path, std::string_view content) {
  const std::string temporary = path + ".tmp";
  try {
    {
      const OpenFile file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
      file.write(content);
      file.flush();
    }
    rename_path(temporary, path);
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
  flush_path(folder_of(path));
}

void rename_path(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    const int code = errno;
    fail_environment("{}: cannot rename to {}: {}", from, to, std::strerror(code));
  }
}

bool exchange_paths(const std::string& a, const std::string& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

bool path_exists(const std::string& path) {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0;
}

uint64_t free_bytes(const std::string& folder) {
  struct statvfs status = {};
  if (::statvfs(folder.c_str(), &status) != 0) fail(folder, "read the free space");
  return static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
}

}  // namespace sidewinder
