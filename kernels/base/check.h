#pragma once
// REQUIRE blames the caller (Blame::user) with the given message; ASSERT blames us (Blame::bug) and
// adds file and line. Both are always on: they guard shapes and states, never inner loops.

#include "kernels/base/error.h"

namespace sidewinder {

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace sidewinder

#define SIDEWINDER_REQUIRE(condition, ...)   \
  do {                                       \
    if (!(condition)) [[unlikely]] {         \
      ::sidewinder::fail_user(__VA_ARGS__);  \
    }                                        \
  } while (false)

#define SIDEWINDER_ASSERT(condition)                                      \
  do {                                                                    \
    if (!(condition)) [[unlikely]] {                                      \
      ::sidewinder::assertion_failed(#condition, __FILE__, __LINE__);     \
    }                                                                     \
  } while (false)
