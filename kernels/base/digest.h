#pragma once
// XXH3 digests (xxHash 0.8 and later, seed 0): 64 bits for blocks and keys, 128 bits for whole
// things. As text the latter are 32 lower-case hexadecimal digits in canonical order, what
// `xxhsum -H2` prints. They find damage and tell data apart; they are no defence against forgery.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace sidewinder {

uint64_t digest64(const void* data, size_t bytes);
inline uint64_t digest64(std::string_view bytes) { return digest64(bytes.data(), bytes.size()); }

struct Digest128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Digest128&) const = default;
};
Digest128 digest128(std::string_view bytes);
std::string to_text(const Digest128& digest);

// The 128-bit digest as text.
std::string digest_of(std::string_view bytes);

// The 128-bit digest of bytes that come in pieces.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  void update(const void* data, size_t bytes);
  void update(std::string_view bytes) { update(bytes.data(), bytes.size()); }
  std::string text() const;  // of everything so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sidewinder
