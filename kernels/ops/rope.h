#pragma once
// Rotary position embedding: pairs of a head's elements are turned by position · frequency.
// Su et al. 2021 (arXiv:2104.09864). Backward is the same turn by the negative angle, and grows by
// the same attention factor.

#include "kernels/math/rope.h"
#include "kernels/ops/kernel.h"

namespace sidewinder {

// cos and sin by position and pair, already scaled by the attention factor.
struct RopeTable {
  Tensor cosine;  // [positions, rotary pairs] f32 (f64)
  Tensor sine;
  bool interleaved = false;  // pairs (2j, 2j+1) instead of (j, j + rotary/2)
};

struct RopeArgs {
  Tensor& y;               // [T, H, P] like x; may be x
  const Tensor& x;         // [T, H, P]; elements past twice the pairs are copied
  const Tensor& position;  // i32 [T], each below the number of positions of the table
  const RopeTable& table;
  bool inverse;
};

namespace cpu {
void rope(Stream, const RopeArgs&);
}

extern Kernel<RopeArgs> kRope;

namespace ops {

// Row i is of position first + i, for `positions` of them. `dtype` f32 or f64. `length` is that of the sequence, for scalings that
// depend on it; 0: first + positions.
RopeTable rope_table(const RopeOptions& options, int64_t positions, Dtype dtype,
                     int64_t length = 0, int64_t first = 0);
// `inverse` turns by the negative angle: the gradient of the forward turn.
Tensor rope(const Tensor& x, const Tensor& position, const RopeTable& table, bool inverse = false);
void rope_in_place(Tensor& x, const Tensor& position, const RopeTable& table, bool inverse = false);

}  // namespace ops
}  // namespace sidewinder
