#pragma once
// Inner loop of the rotary embedding.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

// `tokens` rows of `heads` heads of `width` elements; strides count elements.
struct RopeRows {
  void* y;
  const void* x;
  const int32_t* position;
  const float* cosine;  // [positions, pairs]
  const float* sine;
  int64_t tokens, heads, width, pairs;
  int64_t x_stride, y_stride;
  bool interleaved, inverse;
};

struct RopeIsa {
  void (*turn_f32)(const RopeRows&);
  void (*turn_bf16)(const RopeRows&);
};

SIDEWINDER_DECLARE_PER_ISA(RopeIsa, rope_kernels)

}  // namespace sidewinder
