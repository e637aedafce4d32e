#pragma once
// A folder of checkpoints. step-000001000/ holds rank-0000.h5 and manifest.json; it is written under
// a temporary name, flushed and renamed, so a folder that has the final name is whole. Nothing is
// ever changed in place. The manifest lists every file and tensor with size and XXH3-128 digest, and
// all are verified before anything is parsed.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/options.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

// What makes a checkpoint: tensors, and a JSON object (text) with everything else.
struct CheckpointContent {
  int64_t step = 0;
  std::vector<NamedTensor> tensors;
  std::string state;  // JSON: run state, resolved recipe, tokenizer digest, instruction set, …
};

struct FoundCheckpoint {
  std::string folder;
  int64_t step = 0;
};

class Store {
 public:
  // Creates the folder if needed and removes leftovers of interrupted saves.
  explicit Store(const std::string& folder);

  // Saves, then applies retention. Error{environment} on any failure (full disk, …); then nothing
  // visible has changed.
  void save(const CheckpointContent& content, const CheckpointOptions& options);

  // Checkpoint folders by step, newest first, whether sound or not.
  std::vector<FoundCheckpoint> list() const;

  // The newest sound checkpoint. Damaged ones are reported in the log and skipped. None at all:
  // nullopt. Only damaged ones: Error{environment}.
  std::optional<CheckpointContent> load_newest() const;

 private:
  std::string folder_;
};

// Reads one checkpoint folder; every byte is verified. Error{environment} naming file and reason.
CheckpointContent load_checkpoint(const std::string& folder);
// As load_checkpoint but for a run folder or checkpoint folder, whichever `path` is.
CheckpointContent load_checkpoint_or_newest(const std::string& path);

// Exclusive right to write into a run folder; held while the object lives. Error{user} when another
// process has it, naming its pid and host.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace sidewinder
