#pragma once
// Files and folders that survive a power cut: a name is safe when the file was flushed before it
// got the name and the folder was flushed after. All functions throw Error{environment} with path
// and reason.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sidewinder {

// An open descriptor that closes itself.
class OpenFile {
 public:
  OpenFile(const std::string& path, int flags, unsigned mode = 0666);
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int descriptor() const { return descriptor_; }
  uint64_t bytes() const;
  void write(std::string_view text) const;
  // Reads exactly `bytes` bytes at `offset`; false if the file ends before.
  [[nodiscard]] bool read(void* data, size_t bytes, uint64_t offset) const;
  void flush() const;  // to the disk

 private:
  std::string path_;
  int descriptor_ = -1;
};

// Creates the folder and those above it, where missing, and flushes their names.
void create_folder(const std::string& folder);
// Flushes a closed file, or the names in a folder, to the disk.
void flush_path(const std::string& path);
// Creates a file (it must not exist) with this content and flushes it; the name is not yet safe.
void write_new_file(const std::string& path, std::string_view content);
// Replaces or creates a file: temporary name, flush, rename, flush of the folder.
void replace_file(const std::string& path, std::string_view content);
// Renames a file or folder; nothing may be at `to` except an empty folder. The folder that holds
// the names is not flushed.
void rename_path(const std::string& from, const std::string& to);
// Swaps two folders in one step; false where the file system cannot.
[[nodiscard]] bool exchange_paths(const std::string& a, const std::string& b);
bool path_exists(const std::string& path);  // a link that leads nowhere exists, too
// Bytes that an ordinary user may still write into the file system of `folder`.
uint64_t free_bytes(const std::string& folder);

}  // namespace sidewinder
