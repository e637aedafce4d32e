#pragma once
// XXH3-128 (xxHash 0.8 and later) of bytes given piece by piece, as 32 lower-case hexadecimal
// digits in canonical order: what `xxhsum -H2` prints. It notices damage; it is no defence against
// forgery.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace sidewinder {

class Digest {
 public:
  Digest();
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  std::string text() const;  // of everything so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string digest_of(std::string_view text);

}  // namespace sidewinder
