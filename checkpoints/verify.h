#pragma once
// Reading a checkpoint's files by recorded offset, every byte against its digest. Throws
// DamagedCheckpoint where a file or tensor is not what the manifest says.

#include <string>

#include "checkpoints/manifest.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {

Manifest read_manifest(const std::string& folder);
// Size and digest of a file that was just written.
FileRecord record_of_file(const std::string& path, const std::string& name);
void verify_file(const std::string& folder, const FileRecord& record);
// The tensor; the bytes that are verified are those that are returned.
Tensor read_tensor(const std::string& folder, const TensorRecord& record);
void verify_tensor(const std::string& folder, const TensorRecord& record);

}  // namespace sidewinder
