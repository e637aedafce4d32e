#pragma once
// XXH3 digests: 64 bits for blocks and keys, 128 bits as 32 hexadecimal digits for whole things.
// They find damage and tell data apart; they are no protection against forgery.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace sidewinder {

uint64_t digest64(const void* data, size_t bytes);
inline uint64_t digest64(std::string_view text) { return digest64(text.data(), text.size()); }

struct Digest128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Digest128&) const = default;
};
Digest128 digest128(std::string_view bytes);
std::string to_hex(const Digest128& digest);

// The 128-bit digest of bytes that come in pieces.
class RunningDigest {
 public:
  RunningDigest();
  ~RunningDigest();
  RunningDigest(const RunningDigest&) = delete;
  RunningDigest& operator=(const RunningDigest&) = delete;

  void add(const void* data, size_t bytes);
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sidewinder
