#pragma once
// Numbers as people read them.

#include <cstdint>
#include <string>

namespace sidewinder {

std::string bytes_text(uint64_t bytes);  // "1.5 MiB"

}  // namespace sidewinder
