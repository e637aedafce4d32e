#pragma once
// The selective scan of Mamba-1 (Gu & Dao 2023, arXiv:2312.00752), per channel e and state n:
//   δ_t = softplus(delta_t + delta_bias)
//   h_t = exp(δ_t · a) · h_{t−1} + δ_t · u_t · b_t          h = 0 before a document's first token
//   y_t = Σ_n c_t · h_t + d · u_t                           out_t = y_t · silu(z_t)
// B is discretised to first order (δ·b), as every published checkpoint expects. In a carried row h
// starts from `initial`. softplus is log1p(eˣ), the identity above 20.
//
// Backward walks the tokens from the last; g = ∂L/∂h_t, dy = dout · silu(z), decay = exp(δ·a),
// p = decay · h_{t−1} (recomputed inside chunks from the states saved at chunk starts):
//   g += dy·c        dc += dy·h      db += g·δ·u       da += g·δ·p       dd += dy·u
//   q = Σ_n g·b      du = d·dy + δ·q      dδ = u·q + Σ_n g·a·p      dz = dout·y·silu'(z)
//   g ← decay·g;     ddelta = dδ·σ(delta + delta_bias),  ddelta_bias = Σ ddelta
// Parameters, states and sums are f32 (f64 for f64 inputs), whatever the type of the activations.

#include "kernels/ops/kernel.h"
#include "kernels/tensor/sequence_layout.h"

namespace sidewinder {

// Tokens between saved states. Each row starts a chunk of its own; only rounding depends on it.
inline constexpr int64_t kScanChunk = 64;

struct SelectiveScanInputs {
  Tensor u;           // [T, E] f32|bf16|f64
  Tensor delta;       // [T, E] like u
  Tensor a;           // [E, N] f32 (f64), negative
  Tensor b;           // [T, N] like u
  Tensor c;           // [T, N] like u
  Tensor d;           // [E] f32 (f64)
  Tensor z;           // [T, E] like u, or undefined (no gate)
  Tensor delta_bias;  // [E] f32 (f64)
  Tensor initial;     // [rows, E, N] f32 (f64), or undefined (zero)
};

struct SelectiveScanArgs {
  Tensor& out;           // [T, E] like u
  Tensor& chunk_states;  // [rows · ceil(row_length / kScanChunk), E, N] f32 (f64): the state before
                         // each chunk, for backward; undefined: not wanted
  Tensor& final_state;  // [rows, E, N] f32 (f64), or undefined (not wanted)
  const SelectiveScanInputs& in;
  const SequenceLayout& layout;
};

struct SelectiveScanGradients {
  Tensor du, ddelta, db, dc, dz;  // like their inputs
  Tensor dinitial;                // [rows, E, N] when `initial` was given
};

struct SelectiveScanBackwardArgs {
  SelectiveScanGradients& gradients;
  Tensor& da;           // [E, N], added to
  Tensor& dd;           // [E], added to
  Tensor& ddelta_bias;  // [E], added to
  const Tensor& dout;
  const Tensor& dfinal;  // [rows, E, N], or undefined (zero)
  const SelectiveScanInputs& in;
  const Tensor& chunk_states;
  const SequenceLayout& layout;
};

namespace cpu {
void selective_scan(Stream, const SelectiveScanArgs&);
void selective_scan_backward(Stream, const SelectiveScanBackwardArgs&);
}  // namespace cpu

extern Kernel<SelectiveScanArgs> kSelectiveScan;
extern Kernel<SelectiveScanBackwardArgs> kSelectiveScanBackward;

namespace ops {

struct SelectiveScanOut {
  Tensor out, chunk_states, final_state;
};
SelectiveScanOut selective_scan(const SelectiveScanInputs& in, const SequenceLayout& layout,
                                bool want_chunk_states, bool want_final_state);

// Adds to da, dd and ddelta_bias.
SelectiveScanGradients selective_scan_backward(Tensor& da, Tensor& dd, Tensor& ddelta_bias,
                                               const Tensor& dout, const SelectiveScanInputs& in,
                                               const Tensor& chunk_states,
                                               const SequenceLayout& layout,
                                               const Tensor& dfinal = {});

}  // namespace ops
}  // namespace sidewinder
