#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011). A draw is a pure function of
// (seed, tag, index), so nothing has to be saved to continue a run, and neither the number of
// threads nor the order of draws matters.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace sidewinder {

class Philox {
 public:
  Philox(uint64_t seed, uint64_t tag) : seed_(seed), tag_(tag) {}
  // A named purpose, e.g. Philox(seed, "model.init/blocks.0.in_proj").
  Philox(uint64_t seed, std::string_view purpose) : Philox(seed, hash(purpose)) {}

  // Four independent 32-bit words for one index.
  std::array<uint32_t, 4> block(uint64_t index) const {
    std::array<uint32_t, 4> counter = {static_cast<uint32_t>(index),
                                       static_cast<uint32_t>(index >> 32),
                                       static_cast<uint32_t>(tag_), static_cast<uint32_t>(tag_ >> 32)};
    uint32_t key0 = static_cast<uint32_t>(seed_);
    uint32_t key1 = static_cast<uint32_t>(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
      const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
      counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0,
                 static_cast<uint32_t>(product1),
                 static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1,
                 static_cast<uint32_t>(product0)};
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
    return counter;
  }

  uint64_t bits(uint64_t index) const {
    const auto words = block(index);
    return uint64_t{words[1]} << 32 | words[0];
  }

  // Uniform in [0, 1), 53 bits.
  double uniform(uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1p-53; }

  // Standard normal (Box-Muller).
  double normal(uint64_t index) const {
    const auto words = block(index);
    const double u =
        (static_cast<double>((uint64_t{words[1]} << 32 | words[0]) >> 11) + 0.5) * 0x1p-53;
    const double v = static_cast<double>((uint64_t{words[3]} << 32 | words[2]) >> 11) * 0x1p-53;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586476925 * v);
  }

  // Uniform in [0, bound) without bias worth measuring (bound < 2^32): high word of the product.
  uint64_t below(uint64_t index, uint64_t bound) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(bits(index)) * bound) >> 64);
  }

  // FNV-1a, 64 bits.
  static constexpr uint64_t hash(std::string_view text) {
    uint64_t value = 0xcbf29ce484222325ULL;
    for (const char c : text) {
      value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    }
    return value;
  }

 private:
  uint64_t seed_;
  uint64_t tag_;
};

}  // namespace sidewinder
