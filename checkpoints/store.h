#pragma once
// A folder of checkpoints. step-000001000/ holds rank-0000.h5 and manifest.json; it is written
// under a temporary name, flushed and renamed, so a folder that has the final name is whole.
// Nothing is ever changed in place. The manifest lists every file and tensor with size and XXH3-128
// digest, and all are verified before anything is used; loading needs no HDF5 parser.
// docs/formats.md defines the bytes.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/manifest.h"
#include "checkpoints/options.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {

struct NamedTensor {
  std::string name;  // letters, digits and . _ - with single slashes between groups
  Tensor tensor;
};

// What makes a checkpoint: tensors, and a JSON object (text) with everything else.
struct CheckpointContent {
  int64_t step = 0;
  std::vector<NamedTensor> tensors;
  std::string state;   // JSON: run state, resolved recipe, tokenizer digest, instruction set, …
  std::string folder;  // where it was read from; not saved
};

struct FoundCheckpoint {
  std::string folder;
  int64_t step = 0;
};

// Exclusive right to write into a run folder; held while the object lives, or until the process
// ends. Creates the folder if needed. Error{user} when another process has it, naming its pid and
// host.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
  int descriptor_ = -1;
};

// The writer of a folder of checkpoints, for one thread at a time. save and load_newest change the
// folder, so their caller holds the FolderLock of the run. Readers use the functions below.
class Store {
 public:
  explicit Store(const std::string& folder) : folder_(folder) {}

  // Removes what interrupted saves left, saves, then applies retention: the newest
  // options.keep_last up to this step and the multiples of options.keep_every stay. A checkpoint of
  // the same step is replaced in one step. Error{environment} on any failure (full disk, …); then
  // nothing visible has changed, except that after a failure of the very last flush the new
  // checkpoint is there but may not survive a power cut. Needs host memory for nothing but tensors
  // that are not contiguous.
  void save(const CheckpointContent& content, const CheckpointOptions& options);

  // Checkpoint folders by step, newest first, whether sound or not.
  std::vector<FoundCheckpoint> list() const;

  // The newest sound checkpoint; what interrupted saves left is removed. Damaged ones are reported
  // in the log and renamed to .bad-…. None at all: nullopt. Only damaged ones (now or at an earlier
  // start): Error{environment}, and nothing is renamed.
  std::optional<CheckpointContent> load_newest() const;

 private:
  void remove_leftovers() const;
  void apply_retention(int64_t saved, const CheckpointOptions& options);

  std::string folder_;
};

// Error{environment} if the file system of `folder` has no room for such a checkpoint.
void require_room(const std::string& folder, const CheckpointContent& content);

// Checkpoint folders in a folder by step, newest first, whether sound or not.
std::vector<FoundCheckpoint> list_checkpoints(const std::string& folder);
// Folders of checkpoints that were found damaged at an earlier start, by name.
std::vector<std::string> list_set_aside(const std::string& folder);
// What a user is told who asked for checkpoints that cannot be had: for any one of a run, or for
// the very one in `folder`.
[[noreturn]] void fail_all_damaged(const std::string& folder);
[[noreturn]] void fail_damaged(const DamagedCheckpoint& problem, const std::string& folder);
// Reads one checkpoint folder; every byte is verified. Error{environment} naming file and reason.
CheckpointContent load_checkpoint(const std::string& folder);
// As load_checkpoint, but `path` may also be a folder of checkpoints or a run folder that has one
// called `checkpoints`: then the newest sound one. Changes nothing on the disk. Error{user} when
// there is no checkpoint.
CheckpointContent load_checkpoint_or_newest(const std::string& path);

}  // namespace sidewinder
