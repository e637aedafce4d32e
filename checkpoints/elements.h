#pragma once
// The element types of safetensors files, and floating elements as f32 and back. Half-precision
// values are exact in f32; the way back rounds to nearest even, and says where it had to.

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace sidewinder {

struct ElementType {
  std::string_view name;  // "F32", as files spell it
  int bits = 0;           // of one element; less than 8 in some
};

// Null: no such type.
const ElementType* find_element_type(std::string_view name);
// F64, F32, F16 or BF16: what weights can be read from.
bool is_convertible(const ElementType& type);

// `count` elements from little-endian bytes, which need no alignment. Returns how many changed
// their value: none but F64 elements can.
int64_t elements_to_f32(const ElementType& type, const void* bytes, int64_t count, float* values);

struct Narrowed {
  int64_t rounded = 0;     // elements that are not the same in the narrower type
  int64_t overflowed = 0;  // finite ones that became infinite
};
Narrowed elements_from_f32(const ElementType& type, const float* values, int64_t count,
                           void* bytes);

}  // namespace sidewinder
