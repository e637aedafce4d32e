#pragma once
// Real texts and models beside the source tree, for tests that need them and skip without.

#include <filesystem>
#include <optional>

namespace sidewinder::testing {

// The folder `data` of $SIDEWINDER_SHARED, or of ../shared as seen from the source tree.
std::optional<std::filesystem::path> shared_data();

// First in a test, or in SetUp(), that reads it.
#define SIDEWINDER_SKIP_WITHOUT_SHARED_DATA()                                      \
  if (!::sidewinder::testing::shared_data()) {                                     \
    GTEST_SKIP() << "needs ../shared/data, or SIDEWINDER_SHARED that leads there"; \
  }

}  // namespace sidewinder::testing
