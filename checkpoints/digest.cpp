#include "checkpoints/digest.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <new>

namespace sidewinder {

struct Digest::State {
  XXH3_state_t* state = XXH3_createState();
  State() {
    if (state == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(state);
  }
  ~State() { XXH3_freeState(state); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Digest::Digest() : state_(std::make_unique<State>()) {}
Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::update(const void* data, size_t bytes) {
  if (bytes > 0) XXH3_128bits_update(state_->state, data, bytes);
}

std::string Digest::text() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->state));
  std::string result;
  for (const unsigned char byte : canonical.digest) result += fmt::format("{:02x}", byte);
  return result;
}

std::string digest_of(std::string_view text) {
  Digest digest;
  digest.update(text);
  return digest.text();
}

}  // namespace sidewinder
