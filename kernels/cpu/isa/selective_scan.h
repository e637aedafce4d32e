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
  // The first tile of what this thread likely does next, from the row's first token and the group's
  // first channel: its rows are asked for ahead. next_token < 0: nothing.
  int64_t next_token, next_channel;
};

// States of the group are [channels, states] with a dense inner dimension; null: zero or not
// wanted.
struct ScanForwardItem {
  ScanGroup in;
  int64_t chunk_begin, chunk_end;  // the chunks before them were done before
  const float* initial;            // read with the row's first chunk
  void* out;
  int64_t out_stride;
  float* chunk_states;   // of the row's first chunk
  int64_t chunk_stride;  // floats from chunk to chunk
  float* final_state;    // written with the row's last chunk
  float* states;         // between items: forward_states floats
  float* scratch;        // forward_scratch floats, 64-byte aligned
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
  float* sums;          // running sums of the group: see ScanLoops::sums
  // [tokens of these chunks][dc, db][padded states]: sums over blocks of the group, in their order,
  // of sums over the channels of a block.
  float* partials;
  int block_channels;  // a multiple of kLanes of any level
  float* scratch;      // backward_scratch floats
};

// The sums of partials over groups, in their order, for the tokens of a chunk: first over each run
// of neighbouring groups, as an item over all channels of the run would make them.
struct ScanGroupSums {
  const float* partials;  // of the first group
  int64_t group_stride;   // floats from group to group
  int64_t groups, run;
  void* db;
  void* dc;
  int64_t db_stride, dc_stride;
  int tokens;
  int states;
  bool bf16;
  float* scratch;  // as many floats as the partials of a group have for these tokens
};

struct ScanLoops {
  int lanes;
  int64_t (*forward_scratch)(int channels, int states);
  int64_t (*forward_states)(int channels, int states);
  int64_t (*backward_scratch)(int channels, int states);
  // Per strip, vectors of kLanes floats: the gradient of the state [padded states], which begins
  // with every row, and da [padded states], dd, ddelta_bias, which go on.
  int64_t (*sums)(int channels, int states);
  void (*forward)(const ScanForwardItem&);
  void (*backward)(const ScanBackwardItem&);
  void (*add_groups)(const ScanGroupSums&);
};

SIDEWINDER_DECLARE_PER_ISA(ScanLoops, selective_scan_loops)

}  // namespace sidewinder
