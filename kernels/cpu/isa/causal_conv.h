#pragma once
// Inner loops of the causal convolution for one block of tokens of a row and one group of
// neighbouring channels. Lanes are channels.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

// Activations point at the row's first token and the group's first channel; strides are in
// elements.
inline constexpr int kConvGroup = 512;  // the most channels of a group

struct ConvBlock {
  const void* x;
  const float* weight;   // [channels, width]
  const float* bias;     // or null
  const float* initial;  // [width − 1, channels of the tensor] of a carried row, or null
  int64_t x_stride, weight_stride, initial_stride;
  const int32_t* resets;  // offsets in the row at which documents begin without a carried state
  int64_t num_resets;
  int64_t row_length;
  int64_t begin, end;  // tokens of the block
  int channels;
  int width;
  bool bf16;
};

struct ConvForwardBlock {
  ConvBlock in;
  void* y;
  int64_t y_stride;
  bool streams;  // y is read much later: it need not stay in the caches
};

struct ConvBackwardBlock {
  ConvBlock in;
  const void* dy;
  void* dx;
  float* dinitial;      // of a carried row, or null; stride initial_stride
  const float* dfinal;  // or null; stride initial_stride
  int64_t dy_stride, dx_stride;
  // Sums over the block: width + 1 rows (dweight[k], then dbias) partial_stride floats apart.
  float* partial;
  int64_t partial_stride;
  bool streams;  // so is dx
};

struct ConvLoops {
  void (*forward)(const ConvForwardBlock&);
  void (*backward)(const ConvBackwardBlock&);
};

SIDEWINDER_DECLARE_PER_ISA(ConvLoops, causal_conv_loops)

}  // namespace sidewinder
