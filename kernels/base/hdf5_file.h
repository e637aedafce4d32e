#pragma once
// HDF5 files: handles that close themselves, errors as exceptions, and the one lock (the library is
// not assumed to be thread-safe). Files are written once and never reopened for change: contiguous
// datasets that begin on 4 KiB boundaries, format bounds (V110, V110), no filters, no time stamps
// (same content, same bytes). A file may be read by offset as well. Durability (fsync, rename) is
// the caller's business, and so is verifying bytes from elsewhere before the library parses them.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace sidewinder {

enum class Hdf5Type : uint8_t { u8, u16, i32, u32, u64, f32, f64 };
size_t size_of(Hdf5Type type);

struct Hdf5Dataset {
  std::string name;
  Hdf5Type type = Hdf5Type::u8;
  std::vector<uint64_t> shape;
  uint64_t file_offset = 0;  // where its bytes begin; 0 if it is empty
  uint64_t bytes = 0;
};

class Hdf5Writer {
 public:
  // Creates `path`; it must not exist. All members throw Error{environment} with path and reason.
  explicit Hdf5Writer(const std::string& path);
  ~Hdf5Writer();
  Hdf5Writer(Hdf5Writer&&) noexcept;
  Hdf5Writer& operator=(Hdf5Writer&&) noexcept;

  void write(const std::string& name, Hdf5Type type, std::span<const uint64_t> shape,
             const void* data);
  void attribute(const std::string& name, const std::string& text);
  void attribute(const std::string& name, uint64_t value);
  // Closes and flushes to the operating system; reports every late error. A file whose writer dies
  // without it is removed (or, if the process dies, does not open).
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Hdf5Reader {
 public:
  explicit Hdf5Reader(const std::string& path);
  ~Hdf5Reader();
  Hdf5Reader(Hdf5Reader&&) noexcept;
  Hdf5Reader& operator=(Hdf5Reader&&) noexcept;

  bool has(const std::string& name) const;
  Hdf5Dataset dataset(const std::string& name) const;  // Error{environment} if absent
  // Reads the whole dataset; `bytes` must be its size.
  void read(const std::string& name, void* data, size_t bytes) const;
  // Elements [first, first + count) of a dataset of one dimension, as `type`; the dataset stays
  // open. What reading by offset is measured against.
  void read_at(const std::string& name, uint64_t first, uint64_t count, Hdf5Type type,
               void* data) const;
  bool has_attribute(const std::string& name) const;
  std::string text_attribute(const std::string& name) const;
  uint64_t number_attribute(const std::string& name) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sidewinder
