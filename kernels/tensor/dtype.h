#pragma once
// Element types. f64 exists on the CPU only, for checks: its kernels are the plain loops of
// kernels/reference.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/math/bf16.h"

namespace sidewinder {

enum class Dtype : uint8_t { f32, bf16, f64, i32 };

constexpr size_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16: return 2;
    case Dtype::f64: return 8;
    case Dtype::f32:
    case Dtype::i32: break;
  }
  return 4;
}

constexpr std::string_view name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32: return "f32";
    case Dtype::bf16: return "bf16";
    case Dtype::f64: return "f64";
    case Dtype::i32: break;
  }
  return "i32";
}

template <typename T> constexpr Dtype dtype_of();
template <> constexpr Dtype dtype_of<float>() { return Dtype::f32; }
template <> constexpr Dtype dtype_of<Bf16>() { return Dtype::bf16; }
template <> constexpr Dtype dtype_of<double>() { return Dtype::f64; }
template <> constexpr Dtype dtype_of<int32_t>() { return Dtype::i32; }

// The type of sums, statistics, states and parameter gradients when activations have `dtype`.
constexpr Dtype accumulator_of(Dtype dtype) {
  return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
}

}  // namespace sidewinder
