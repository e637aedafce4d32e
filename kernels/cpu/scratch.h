#pragma once
// Memory of the calling thread that kernels reuse from item to item, so that nothing is allocated
// once buffers have grown to the sizes in use.

#include <cstddef>

namespace sidewinder::cpu {

// At least `bytes`, 64-byte aligned, not initialised, valid until the next call from this thread.
// An item asks once for all it needs.
void* thread_scratch(size_t bytes);
// Another such piece, for items that run whole products of matrices, which use the first.
void* outer_scratch(size_t bytes);

}  // namespace sidewinder::cpu
