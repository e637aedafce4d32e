#include "checkpoints/elements.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/math/bf16.h"

namespace sidewinder {
namespace {

constexpr std::array<ElementType, 23> kTypes = {{
    {"BOOL", 8},        {"U8", 8},          {"I8", 8},      {"F8_E4M3", 8}, {"F8_E5M2", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6},
    {"F4", 4},          {"I16", 16},        {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},        {"F32", 32},    {"I64", 64},    {"U64", 64},
    {"F64", 64},        {"C64", 64},        {"I4", 4},
}};

// IEEE 754 binary16 ↔ binary32, NaN payloads kept.
float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fU;
  const uint32_t fraction = half & 0x3ffU;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | fraction << 13);
  if (exponent == 0) {  // zero and subnormal: fraction · 2^−24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

// value / 2^shift, to nearest even.
uint32_t shift_rounded(uint32_t value, uint32_t shift) {
  const uint32_t half = uint32_t{1} << (shift - 1);
  const uint32_t result = value >> shift;
  const uint32_t rest = value & (2 * half - 1);
  return result + static_cast<uint32_t>(rest > half || (rest == half && (result & 1U) != 0));
}

uint16_t float_to_half(float value) {
  const uint32_t word = std::bit_cast<uint32_t>(value);
  const uint32_t sign = word >> 16 & 0x8000U;
  const uint32_t magnitude = word & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {  // NaN stays NaN, whatever is cut off
    const uint32_t payload = magnitude >> 13 & 0x3ffU;
    return static_cast<uint16_t>(sign | 0x7c00U | (payload != 0 ? payload : 0x200U));
  }
  if (magnitude >= 0x477ff000U) return static_cast<uint16_t>(sign | 0x7c00U);  // ≥ 65520
  if (magnitude >= 0x38800000U) {                                              // ≥ 2^−14
    return static_cast<uint16_t>(sign | (shift_rounded(magnitude, 13) - (uint32_t{112} << 10)));
  }
  if (magnitude < 0x33000000U) return static_cast<uint16_t>(sign);  // < 2^−25
  const uint32_t fraction = (magnitude & 0x7fffffU) | 0x800000U;
  return static_cast<uint16_t>(sign | shift_rounded(fraction, 126 - (magnitude >> 23)));
}

uint16_t float_to_bf16(float value) {
  const uint32_t word = std::bit_cast<uint32_t>(value);
  // Also what Bf16 does, but for signalling NaNs, which would not come back as they were.
  if ((word & 0xffffU) == 0) return static_cast<uint16_t>(word >> 16);
  return Bf16(value).bits;
}

float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

bool same(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

template <typename Stored, typename Widen>
void widen_all(const char* bytes, int64_t count, float* values, Widen widen) {
  for (int64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, bytes + i * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
    values[i] = widen(stored);
  }
}

template <typename Narrow, typename Widen>
Narrowed narrow_all(const float* values, int64_t count, char* bytes, Narrow narrow, Widen widen) {
  Narrowed result;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t stored = narrow(values[i]);
    std::memcpy(bytes + 2 * i, &stored, 2);
    const float back = widen(stored);
    if (same(back, values[i])) continue;
    ++result.rounded;
    if (std::isinf(back) && std::isfinite(values[i])) ++result.overflowed;
  }
  return result;
}

}  // namespace

const ElementType* find_element_type(std::string_view name) {
  for (const ElementType& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

bool is_convertible(const ElementType& type) {
  return type.name == "F32" || type.name == "BF16" || type.name == "F16" || type.name == "F64";
}

int64_t elements_to_f32(const ElementType& type, const void* bytes, int64_t count, float* values) {
  SIDEWINDER_ASSERT(is_convertible(type));
  const char* source = static_cast<const char*>(bytes);
  if (type.name == "F32") {
    if (count > 0) std::memcpy(values, source, static_cast<size_t>(count) * sizeof(float));
  } else if (type.name == "BF16") {
    widen_all<uint16_t>(source, count, values, bf16_to_float);
  } else if (type.name == "F16") {
    widen_all<uint16_t>(source, count, values, half_to_float);
  } else {
    int64_t rounded = 0;
    widen_all<double>(source, count, values, [&](double value) {
      const float narrow = static_cast<float>(value);
      if (std::bit_cast<uint64_t>(static_cast<double>(narrow)) != std::bit_cast<uint64_t>(value)) {
        ++rounded;
      }
      return narrow;
    });
    return rounded;
  }
  return 0;
}

Narrowed elements_from_f32(const ElementType& type, const float* values, int64_t count,
                           void* bytes) {
  SIDEWINDER_ASSERT(is_convertible(type));
  char* target = static_cast<char*>(bytes);
  if (type.name == "BF16") return narrow_all(values, count, target, float_to_bf16, bf16_to_float);
  if (type.name == "F16") return narrow_all(values, count, target, float_to_half, half_to_float);
  if (type.name == "F32") {
    if (count > 0) std::memcpy(target, values, static_cast<size_t>(count) * sizeof(float));
    return {};
  }
  for (int64_t i = 0; i < count; ++i) {
    const double wide = static_cast<double>(values[i]);
    std::memcpy(target + 8 * i, &wide, 8);
  }
  return {};
}

}  // namespace sidewinder
