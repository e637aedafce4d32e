#include "kernels/cpu/scratch.h"

#include "kernels/tensor/allocator.h"

namespace sidewinder::cpu {
namespace {

class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { release(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* at_least(size_t bytes) {
    if (bytes > size_) {
      release();
      pointer_ = allocator_of(Device{}).allocate(bytes);
      size_ = bytes;
    }
    return pointer_;
  }

 private:
  void release() {
    if (pointer_ != nullptr) allocator_of(Device{}).free(pointer_);
    pointer_ = nullptr;
    size_ = 0;
  }

  void* pointer_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

void* thread_scratch(size_t bytes) {
  thread_local Scratch scratch;
  return scratch.at_least(bytes);
}

void* outer_scratch(size_t bytes) {
  thread_local Scratch scratch;
  return scratch.at_least(bytes);
}

}  // namespace sidewinder::cpu
