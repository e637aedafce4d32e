#include "data/files.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : number_(::open(path.c_str(), flags, 0666)) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }
  // Closes now; late write errors of network file systems come out here.
  bool close() { return ::close(std::exchange(number_, -1)) == 0; }

 private:
  int number_;
};

// A corpus keeps one file open for each shard, and the usual limit is 1024. False if it is as high
// as it may be.
bool raise_file_limit() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return false;
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

void flush_folder_of(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string folder = parent.empty() ? "." : parent.string();
  const Descriptor descriptor(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor.number() < 0 || ::fsync(descriptor.number()) != 0) {
    fail_environment("{}: cannot flush the folder to disk: {}", folder, std::strerror(errno));
  }
}

}  // namespace

std::string read_file(const std::string& path, size_t max_bytes) {
  const RandomAccessFile file(path);
  if (file.size() > max_bytes) {
    fail_environment(
        "{}: has {} bytes, more than the {} that such a file may have; is it the right file?", path,
        file.size(), max_bytes);
  }
  std::string content(file.size(), '\0');
  file.read(0, content.data(), content.size());
  return content;
}

void write_file(const std::string& path, std::string_view content) {
  const std::string temporary = path + ".tmp";
  try {
    Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
    if (file.number() < 0) {
      fail_environment("{}: cannot create the file: {}", temporary, std::strerror(errno));
    }
    for (size_t done = 0; done < content.size();) {
      const ssize_t written = ::write(file.number(), content.data() + done, content.size() - done);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_environment("{}: cannot write: {}", temporary, std::strerror(errno));
      done += static_cast<size_t>(written);
    }
    if (::fsync(file.number()) != 0 || !file.close()) {
      fail_environment("{}: cannot flush the file to disk: {}", temporary, std::strerror(errno));
    }
    publish_file(temporary, path);
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void flush_file(const std::string& path) {
  const Descriptor file(path, O_RDONLY | O_CLOEXEC);
  if (file.number() < 0 || ::fsync(file.number()) != 0) {
    fail_environment("{}: cannot flush the file to disk: {}", path, std::strerror(errno));
  }
}

void publish_file(const std::string& temporary, const std::string& path) {
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    fail_environment("{}: cannot rename it to {}: {}", temporary, path, std::strerror(errno));
  }
  flush_folder_of(path);
}

RandomAccessFile::RandomAccessFile(const std::string& path) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0 && errno == EMFILE && raise_file_limit()) {
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  if (descriptor_ < 0) fail_environment("{}: cannot open the file: {}", path, std::strerror(errno));
  struct stat status = {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    const std::string reason = known ? "it is not a regular file" : std::strerror(errno);
    ::close(std::exchange(descriptor_, -1));
    fail_environment("{}: cannot read the file: {}", path, reason);
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

RandomAccessFile::~RandomAccessFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

RandomAccessFile::RandomAccessFile(RandomAccessFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

RandomAccessFile& RandomAccessFile::operator=(RandomAccessFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

void RandomAccessFile::read(uint64_t offset, void* data, size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    const ssize_t count = ::pread(descriptor_, static_cast<char*>(data) + done, bytes - done,
                                  static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      fail_environment("{}: cannot read at byte {}: {}", path_, offset + done,
                       std::strerror(errno));
    }
    if (count == 0) {
      fail_environment("{}: ends at byte {} but {} bytes were expected; the file was truncated",
                       path_, offset + done, offset + bytes);
    }
    done += static_cast<size_t>(count);
  }
}

}  // namespace sidewinder
