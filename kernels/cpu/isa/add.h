#pragma once
// y = a + b over one row, in f32 arithmetic.

#include <cstdint>

namespace sidewinder {

using AddRow = void (*)(void* y, const void* a, const void* b, int64_t count);

struct AddKernels {
  AddRow row[2][2][2];  // [y is bf16][a is bf16][b is bf16]
};

}  // namespace sidewinder
