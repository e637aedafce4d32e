#pragma once
// RMS normalisation of consecutive rows: the inner loops of cpu::rms_norm.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

// A row holds `groups` vectors of `width` elements, each normalised by itself. Strides are in
// elements; a bf16 element is a uint16_t.
struct RmsNormRows {
  void* y;
  float* rstd;  // [rows · groups]
  const void* x;
  const float* weight;
  int64_t rows, groups, width, y_stride, x_stride;
  bool y_bf16, x_bf16;
  bool streams;  // y is read much later: it need not stay in the caches
  float eps;
};

struct RmsNormBackwardRows {
  void* dx;
  float* dweight;  // [width], added to
  void* y;         // like dy in type; may be dy; null: not wanted
  const void* dy;
  const void* x;
  const float* weight;
  const float* rstd;
  int64_t rows, groups, width, dx_stride, y_stride, dy_stride, x_stride;
  bool dx_bf16, dy_bf16, x_bf16;
  bool accumulate;  // dx +=
};

struct RmsNormLoops {
  void (*forward)(const RmsNormRows&);
  void (*backward)(const RmsNormBackwardRows&);
};
SIDEWINDER_DECLARE_PER_ISA(RmsNormLoops, rms_norm_loops)

}  // namespace sidewinder
