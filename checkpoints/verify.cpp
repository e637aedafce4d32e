#include "checkpoints/verify.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "checkpoints/durable.h"
#include "kernels/base/digest.h"

namespace sidewinder {
namespace {

constexpr uint64_t kPiece = uint64_t{4} << 20;

template <typename... Parts>
[[noreturn]] void damaged(fmt::format_string<Parts...> message, Parts&&... parts) {
  throw DamagedCheckpoint(fmt::format(message, std::forward<Parts>(parts)...));
}

// Opens a file of a checkpoint. Everything but a plain readable file counts as damage, except a
// lack of permission or of descriptors, which the caller's environment has to answer for.
OpenFile open_file(const std::string& path) {
  std::error_code problem;
  const std::filesystem::file_status status = std::filesystem::status(path, problem);
  if (status.type() == std::filesystem::file_type::not_found) damaged("{}: is missing", path);
  if (!problem && status.type() != std::filesystem::file_type::regular) {
    damaged("{}: is not a file", path);
  }
  return OpenFile(path, O_RDONLY);
}

void read_piece(const OpenFile& file, const std::string& path, void* data, uint64_t bytes,
                uint64_t offset) {
  bool whole = false;
  try {
    whole = file.read(data, bytes, offset);
  } catch (const Error& error) {  // the disk itself cannot read it any more
    throw DamagedCheckpoint(error.what());
  }
  if (!whole) damaged("{}: ends before byte {}", path, offset + bytes);
}

std::string digest_of_file(const OpenFile& file, const std::string& path, uint64_t bytes) {
  Digest digest;
  std::vector<char> buffer(std::min(bytes, kPiece));
  for (uint64_t offset = 0; offset < bytes; offset += kPiece) {
    const uint64_t count = std::min(kPiece, bytes - offset);
    read_piece(file, path, buffer.data(), count, offset);
    digest.update(buffer.data(), count);
  }
  return digest.text();
}

}  // namespace

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + Manifest::kFileName;
  const OpenFile file = open_file(path);
  const uint64_t bytes = file.bytes();
  if (bytes > Manifest::kMaxBytes) {
    damaged("{}: has {} bytes, more than the {} allowed", path, bytes, Manifest::kMaxBytes);
  }
  std::string text(bytes, '\0');
  read_piece(file, path, text.data(), bytes, 0);
  return Manifest::parse(text, path);
}

FileRecord record_of_file(const std::string& path, const std::string& name) {
  const OpenFile file = open_file(path);
  FileRecord record;
  record.name = name;
  record.bytes = file.bytes();
  record.digest = digest_of_file(file, path, record.bytes);
  return record;
}

void verify_file(const std::string& folder, const FileRecord& record) {
  const std::string path = folder + "/" + record.name;
  const OpenFile file = open_file(path);
  if (file.bytes() != record.bytes) {
    damaged("{}: has {} bytes where the manifest says {}", path, file.bytes(), record.bytes);
  }
  const std::string digest = digest_of_file(file, path, record.bytes);
  if (digest != record.digest) {
    damaged("{}: its bytes have digest {} where the manifest says {}", path, digest, record.digest);
  }
}

Tensor read_tensor(const std::string& folder, const TensorRecord& record) {
  const std::string path = folder + "/" + record.file;
  const OpenFile file = open_file(path);
  Tensor tensor = Tensor::empty(to_shape(record.shape), record.dtype);
  read_piece(file, path, tensor.raw(), record.bytes, record.offset);
  const std::string digest =
      tensor_digest(record.name, record.dtype, record.shape, tensor.raw(), record.bytes);
  if (digest != record.digest) {
    damaged("{}: tensor {} has digest {} where the manifest says {}", path, record.name, digest,
            record.digest);
  }
  return tensor;
}

void verify_tensor(const std::string& folder, const TensorRecord& record) {
  static_cast<void>(read_tensor(folder, record));
}

}  // namespace sidewinder
