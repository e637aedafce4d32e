#pragma once
// Bytes of a safetensors file made by hand, so that any of them can be wrong.

#include <cstdint>
#include <string>

namespace sidewinder::testing {

// Header with its length in front, then `data`.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

}  // namespace sidewinder::testing
