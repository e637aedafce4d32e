#pragma once
// Gated activation of one row or a run of rows: the inner loops of cpu::swiglu.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

// Strides in elements; a bf16 element is a uint16_t. All tensors have one type.
struct SwigluRows {
  void* y;              // rows of `width`
  const void* gate_up;  // rows of 2 · width
  int64_t rows, width, y_stride, gate_up_stride;
  bool bf16;
  bool streams;  // the result is too large to be found in the caches again, and not in place
};

struct SwigluBackwardRows {
  void* dgate_up;  // may be gate_up
  void* y;         // may be dy; null: not wanted
  const void* dy;
  const void* gate_up;
  int64_t rows, width, dgate_up_stride, y_stride, dy_stride, gate_up_stride;
  bool bf16;
  bool streams;  // the result is too large to be found in the caches again, and not in place
};

struct SwigluLoops {
  void (*forward)(const SwigluRows&);
  void (*backward)(const SwigluBackwardRows&);
};
SIDEWINDER_DECLARE_PER_ISA(SwigluLoops, swiglu_loops)

}  // namespace sidewinder
