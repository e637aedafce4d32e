#pragma once
// safetensors files (huggingface/safetensors): an 8-byte length, a JSON header, the elements. Files
// may come from anywhere: every number of the header is checked against the others and the file
// before an element is read, and elements are read by offset, never mapped.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoints/durable.h"
#include "checkpoints/elements.h"

namespace sidewinder {

struct StoredTensor {
  std::string name;
  ElementType type;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // first byte, counted from the first element of the file
  uint64_t bytes = 0;

  int64_t count() const;
  std::string shape_text() const;  // "[2, 3]"
};

class SafetensorsFile {
 public:
  // Reads and checks the header. Error{environment} that says what is wrong with it.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return path_; }
  // In the order of their elements in the file.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  // Null: not in this file.
  const StoredTensor* find(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Little-endian elements as they lie in the file.
  std::vector<char> read(const StoredTensor& tensor) const;

 private:
  std::string path_;
  std::unique_ptr<OpenFile> file_;
  uint64_t data_begin_ = 0;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, const StoredTensor*> by_name_;
  std::map<std::string, std::string> metadata_;
};

struct TensorToStore {
  std::string name;
  ElementType type;
  std::vector<int64_t> shape;
  std::function<std::vector<char>()> bytes;  // called once, when it is written

  uint64_t num_bytes() const;
};

// Writes the tensors, widest elements first and by name within, so that none is unaligned; elements
// begin on a 4 KiB boundary. The file appears whole under its name or not at all (temporary name,
// flush, header read back, rename, flush of the folder), and replaces what was there.
void write_safetensors(const std::string& path, std::vector<TensorToStore> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace sidewinder
