#pragma once
// The text that makes a checkpoint complete: which files it has, which tensors lie where in them,
// the state, and digests of all. docs/formats.md defines every byte.

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/digest.h"
#include "kernels/base/error.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {

// A checkpoint whose bytes are not what was written (as opposed to: no permission, no memory, a
// newer format). Only these are passed over in favour of an older one.
class DamagedCheckpoint : public Error {
 public:
  explicit DamagedCheckpoint(const std::string& message) : Error(Blame::environment, message) {}
};

struct FileRecord {
  std::string name;  // inside the checkpoint's folder
  uint64_t bytes = 0;
  std::string digest;  // of all bytes
};

struct TensorRecord {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<int64_t> shape;
  std::string file;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::string digest;  // tensor_digest
};

struct Manifest {
  static constexpr const char* kFileName = "manifest.json";
  static constexpr int64_t kVersion = 1;
  static constexpr uint64_t kMaxBytes = uint64_t{256} << 20;

  int64_t step = 0;
  std::vector<FileRecord> files;
  std::vector<TensorRecord> tensors;
  std::string state;  // a JSON object

  std::string text() const;
  // Verifies the digest before it parses, then every number against the others: sizes, offsets,
  // shapes, names. `path` is for messages. Throws DamagedCheckpoint, or Error{environment} for a
  // version that this program does not know.
  static Manifest parse(const std::string& text, const std::string& path);
};

// Digest over name, element type, shape and the elements in row-major order. The first form has
// taken all but the elements, which follow piece by piece.
Digest begin_tensor_digest(const std::string& name, Dtype dtype, const std::vector<int64_t>& shape);
std::string tensor_digest(const std::string& name, Dtype dtype, const std::vector<int64_t>& shape,
                          const void* data, uint64_t bytes);

Shape to_shape(const std::vector<int64_t>& sizes);
std::vector<int64_t> to_sizes(const Shape& shape);

}  // namespace sidewinder
