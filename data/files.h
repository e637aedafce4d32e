#pragma once
// Small files read and written whole. A written file appears under its name complete and durable,
// or not at all: temporary name, fsync, rename, fsync of the folder. All throw Error{environment}.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sidewinder {

// Refuses files of more than max_bytes, so that a wrong path does not fill the memory.
std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 30);
void write_file(const std::string& path, std::string_view content);

// For files written by others under a temporary name in the same folder: fsync, rename, fsync of
// the folder.
void flush_file(const std::string& path);
void publish_file(const std::string& temporary, const std::string& path);

// Reading by offset. Movable, closes itself.
class RandomAccessFile {
 public:
  RandomAccessFile() = default;
  explicit RandomAccessFile(const std::string& path);
  ~RandomAccessFile();
  RandomAccessFile(RandomAccessFile&& other) noexcept;
  RandomAccessFile& operator=(RandomAccessFile&& other) noexcept;

  uint64_t size() const { return size_; }
  // Exactly `bytes` bytes, or an error.
  void read(uint64_t offset, void* data, size_t bytes) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

}  // namespace sidewinder
