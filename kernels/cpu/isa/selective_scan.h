#pragma once
// Inner loops of the selective scan for one row and one group of neighbouring channels. Lanes are
// channels; a strip is kLanes of them. States are padded to a multiple of 8.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

inline constexpr int kScanTile = 64;  // tokens between saved states: kScanChunk
inline constexpr int kScanStatePadding = 8;

// Activations point at the row's first token and the group's first channel (b, c: first state).
// Strides are in elements, from token to token (a: from channel to channel).
struct ScanGroup {
  const void* u;
  const void* delta;
  const void* b;
  const void* c;
  const void* z;  // null: no gate
  int64_t u_stride, delta_stride, b_stride, c_stride, z_stride;
  const float* a;
  int64_t a_stride;
  const float* d;
  const float* delta_bias;
  const int32_t* resets;  // offsets in the row before which the state is zero, ascending
  int64_t num_resets;
  int64_t row_length;
  int channels;
  int states;
  bool bf16;  // type of the activations
};

// States of the group are [channels, states] with a dense inner dimension; null: zero or not
// wanted.
struct ScanForwardItem {
  ScanGroup in;
  const float* initial;
  void* out;
  int64_t out_stride;
  float* chunk_states;   // of the row's first chunk
  int64_t chunk_stride;  // floats from chunk to chunk
  float* final_state;
  float* scratch;  // forward_scratch floats, 64-byte aligned
};

// Some chunks of a row, the last first; the chunks after them were done before.
struct ScanBackwardItem {
  ScanGroup in;
  const void* dout;
  void* du;
  void* ddelta;
  void* dz;  // null without a gate
  int64_t dout_stride, du_stride, ddelta_stride, dz_stride;
  const float* chunk_states;
  int64_t chunk_stride;
  int64_t chunk_begin, chunk_end;
  const float* dfinal;  // read with the row's last chunk
  float* dinitial;      // written with the row's first chunk
  float* sums;          // running sums of the row and group: see ScanLoops::sums
  float* partials;      // [tokens of these chunks][dc, db][padded states], summed over the group
  float* scratch;       // backward_scratch floats
};

struct ScanLoops {
  int lanes;
  int block;  // of states in ScanBackwardItem::partials
  int64_t (*forward_scratch)(int channels, int states);
  int64_t (*backward_scratch)(int channels, int states);
  // Per strip, vectors of kLanes floats: the gradient of the state [padded states], da [padded
  // states], dd, ddelta_bias.
  int64_t (*sums)(int channels, int states);
  void (*forward)(const ScanForwardItem&);
  void (*backward)(const ScanBackwardItem&);
};

SIDEWINDER_DECLARE_PER_ISA(ScanLoops, selective_scan_loops)

}  // namespace sidewinder
