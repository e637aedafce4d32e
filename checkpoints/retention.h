#pragma once
// Which checkpoints are given up after a save.

#include <cstdint>
#include <vector>

#include "checkpoints/options.h"

namespace sidewinder {

// Of the checkpoints at `steps`, those to delete now that `saved` is safely on the disk. The newest
// keep_last (at least one) up to and including `saved` stay, and so do the multiples of keep_every
// and everything newer than `saved`.
std::vector<int64_t> steps_to_delete(std::vector<int64_t> steps, int64_t saved,
                                     const CheckpointOptions& options);

}  // namespace sidewinder
