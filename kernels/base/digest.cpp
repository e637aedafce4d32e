#include "kernels/base/digest.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <new>

namespace sidewinder {

uint64_t digest64(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

Digest128 digest128(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

std::string to_text(const Digest128& digest) {
  return fmt::format("{:016x}{:016x}", digest.high, digest.low);
}

std::string digest_of(std::string_view bytes) { return to_text(digest128(bytes)); }

struct Digest::State {
  XXH3_state_t* hash = XXH3_createState();
  State() {
    if (hash == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(hash);
  }
  ~State() { XXH3_freeState(hash); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Digest::Digest() : state_(std::make_unique<State>()) {}
Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::update(const void* data, size_t bytes) {
  if (bytes > 0) XXH3_128bits_update(state_->hash, data, bytes);
}

std::string Digest::text() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->hash);
  return to_text({hash.low64, hash.high64});
}

}  // namespace sidewinder
