#pragma once
// Bytes of a file, decompressed on the way: plain, .gz, .xz or .zst, told apart by their first
// bytes.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sidewinder {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Up to `bytes` bytes; 0 at the end. Error{environment} if the file cannot be read or its
  // compressed form is damaged or ends too early.
  virtual size_t read(char* data, size_t bytes) = 0;
  // How far the file itself has been read.
  virtual uint64_t file_bytes_read() const = 0;
};

std::unique_ptr<ByteSource> open_source(const std::string& path);

}  // namespace sidewinder
