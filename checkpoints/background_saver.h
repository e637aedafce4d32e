#pragma once
// Saving while training goes on: the caller waits for a copy of its tensors, a thread writes it.
// One save is under way at a time; memory is that of one copy, taken at the first save and kept.

#include <cstdint>
#include <memory>
#include <string>

#include "checkpoints/store.h"

namespace sidewinder {

struct SaveTimes {
  double copy_seconds = 0;   // of the newest save(), for the copy
  double write_seconds = 0;  // of the newest save that has ended, from first file to commit
};

// Saves into a Store, whose rules hold. One thread calls it, and holds the run's FolderLock as long
// as the object lives.
class BackgroundSaver {
 public:
  BackgroundSaver(const std::string& folder, const CheckpointOptions& options);
  // Waits for the save under way. A failure that nobody asked about is logged.
  ~BackgroundSaver();
  BackgroundSaver(const BackgroundSaver&) = delete;
  BackgroundSaver& operator=(const BackgroundSaver&) = delete;

  // Takes the memory of the copy now, on the thread, so that the first save() is as quick as any.
  void reserve(const CheckpointContent& content);
  // Returns when the content is copied: its tensors may change then. Waits for the save before if
  // that is still being written, and throws its failure; then nothing was done.
  void save(const CheckpointContent& content);
  // Writes the caller's tensors themselves, and returns when the checkpoint is complete. Waits and
  // throws as save() does, and for failures of its own.
  void save_now(const CheckpointContent& content);
  // Throws the failure of a save that has ended since the last call of any member; never waits.
  void check();
  // Waits for the save under way; throws its failure.
  void finish();

  int64_t newest_step() const;  // of the checkpoints completed here; -1: none
  SaveTimes times() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sidewinder
