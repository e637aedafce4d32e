#include "tests/support/shared_data.h"

#include <cstdlib>

namespace sidewinder::testing {

std::optional<std::filesystem::path> shared_data() {
  const char* variable = std::getenv("SIDEWINDER_SHARED");
  const std::filesystem::path root =
      variable != nullptr ? std::filesystem::path(variable)
                          : std::filesystem::path(SIDEWINDER_SOURCE_DIR) / ".." / "shared";
  if (!std::filesystem::is_directory(root / "data")) return std::nullopt;
  return root / "data";
}

}  // namespace sidewinder::testing
