#include "kernels/base/check.h"

namespace sidewinder {

void assertion_failed(const char* condition, const char* file, int line) {
  throw Error(Blame::bug, fmt::format("internal error: {} does not hold ({}:{}); this is a bug in "
                                      "sidewinder, please report it with the recipe",
                                      condition, file, line));
}

}  // namespace sidewinder
