#include "data/digest.h"

#include <fmt/core.h>
#include <xxhash.h>

#include "kernels/base/check.h"

namespace sidewinder {

uint64_t digest64(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

Digest128 digest128(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

std::string to_hex(const Digest128& digest) {
  return fmt::format("{:016x}{:016x}", digest.high, digest.low);
}

struct RunningDigest::State {
  XXH3_state_t* hash = XXH3_createState();
  ~State() { XXH3_freeState(hash); }
};

RunningDigest::RunningDigest() : state_(std::make_unique<State>()) {
  SIDEWINDER_ASSERT(state_->hash != nullptr);
  XXH3_128bits_reset(state_->hash);
}

RunningDigest::~RunningDigest() = default;

void RunningDigest::add(const void* data, size_t bytes) {
  XXH3_128bits_update(state_->hash, data, bytes);
}

std::string RunningDigest::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->hash);
  return to_hex({hash.low64, hash.high64});
}

}  // namespace sidewinder
