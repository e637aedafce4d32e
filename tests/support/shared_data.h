#pragma once
// Real texts and models beside the source tree, for tests that need them and skip without.

#include <filesystem>
#include <optional>

namespace sidewinder::testing {

// The folder `data` of $SIDEWINDER_SHARED, or of ../shared as seen from the source tree.
std::optional<std::filesystem::path> shared_data();

}  // namespace sidewinder::testing
