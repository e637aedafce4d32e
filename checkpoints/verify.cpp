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

// Piece by piece: a writer in the background must not need the memory of a tensor once more.
void update_from(const OpenFile& file, const std::string& path, uint64_t begin, uint64_t bytes,
                 Digest& digest) {
  std::vector<char> buffer(std::min(bytes, kPiece));
  for (uint64_t done = 0; done < bytes; done += kPiece) {
    const uint64_t count = std::min(kPiece, bytes - done);
    read_piece(file, path, buffer.data(), count, begin + done);
    digest.update(buffer.data(), count);
  }
}

std::string digest_of_file(const OpenFile& file, const std::string& path, uint64_t bytes) {
  Digest digest;
  update_from(file, path, 0, bytes, digest);
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

namespace {

void check_digest(const std::string& path, const TensorRecord& record, const std::string& digest) {
  if (digest == record.digest) return;
  damaged("{}: tensor {} has digest {} where the manifest says {}", path, record.name, digest,
          record.digest);
}

}  // namespace

Tensor read_tensor(const std::string& folder, const TensorRecord& record) {
  const std::string path = folder + "/" + record.file;
  const OpenFile file = open_file(path);
  Tensor tensor = Tensor::empty(to_shape(record.shape), record.dtype);
  read_piece(file, path, tensor.raw(), record.bytes, record.offset);
  check_digest(path, record,
               tensor_digest(record.name, record.dtype, record.shape, tensor.raw(), record.bytes));
  return tensor;
}

void verify_tensor(const std::string& folder, const TensorRecord& record) {
  const std::string path = folder + "/" + record.file;
  const OpenFile file = open_file(path);
  Digest digest = begin_tensor_digest(record.name, record.dtype, record.shape);
  update_from(file, path, record.offset, record.bytes, digest);
  check_digest(path, record, digest.text());
}

}  // namespace sidewinder
