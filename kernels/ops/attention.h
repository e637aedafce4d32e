#pragma once
// Softmax attention without materialised scores (flash attention, Dao et al. 2022), causal, full or
// windowed, grouped-query, over packed documents. A query sees the keys of its own document that
// the pattern allows; positions are counted from first_key(t). Memory is O(T).
//
//   score = scale · q·k − slope_h · (i − j)     i, j: positions of query and key
//   out = softmax(score) · v        lse = log Σ exp(score)   (natural log)
//
// Slopes are those of ALiBi (Press et al. 2021, arXiv:2108.12409), constants; without them no bias.
//
// Backward, per query i and key j, with P = exp(score − lse) and Δ = Σ dout·out:
//   dv += P·dout   dS = P·(dout·v − Δ)   dq += scale·dS·k   dk += scale·dS·q
// A query head h uses key/value head h / (H / K). A query that sees no key has out 0 and lse −inf.

#include "kernels/math/attention_pattern.h"
#include "kernels/ops/kernel.h"
#include "kernels/tensor/sequence_layout.h"

namespace sidewinder {

struct AttentionArgs {
  Tensor& out;      // [T, H, Pv] like q in type
  Tensor& lse;      // [T, H] f32 (f64)
  const Tensor& q;  // [T, H, P] f32|bf16|f64
  const Tensor& k;  // [layout.keys(), K, P]
  const Tensor& v;  // [layout.keys(), K, Pv]
  const SequenceLayout& layout;
  AttentionPattern pattern;
  double scale;
  const Tensor& slopes;  // [H] f32, finite; undefined: no bias
};

struct AttentionBackwardArgs {
  Tensor& dq;  // like q, contiguous or a view
  Tensor& dk;
  Tensor& dv;
  const Tensor& dout;
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  const Tensor& out;
  const Tensor& lse;
  const SequenceLayout& layout;
  AttentionPattern pattern;
  double scale;
  const Tensor& slopes;  // [H] f32, finite; undefined: no bias
};

// Scores that a pass forms on the CPU, of all heads: what its tiles visit, masked or not. At least
// the visible pairs, and the measure of the work.
struct AttentionVisits {
  int64_t forward = 0;
  int64_t backward = 0;
};

namespace cpu {
void attention(Stream, const AttentionArgs&);
void attention_backward(Stream, const AttentionBackwardArgs&);
AttentionVisits attention_visits(const SequenceLayout&, const AttentionPattern&, int64_t heads,
                                 int64_t kv_heads);
}  // namespace cpu

extern Kernel<AttentionArgs> kAttention;
extern Kernel<AttentionBackwardArgs> kAttentionBackward;

namespace ops {

struct AttentionOut {
  Tensor out, lse;
};
AttentionOut attention(const Tensor& q, const Tensor& k, const Tensor& v,
                       const SequenceLayout& layout, AttentionPattern pattern, double scale,
                       const Tensor& slopes = {});

AttentionVisits attention_visits(const SequenceLayout& layout, const AttentionPattern& pattern,
                                 int64_t heads, int64_t kv_heads);

struct AttentionGradients {
  Tensor dq, dk, dv;
};
AttentionGradients attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                      const Tensor& v, const Tensor& out, const Tensor& lse,
                                      const SequenceLayout& layout, AttentionPattern pattern,
                                      double scale, const Tensor& slopes = {});

}  // namespace ops
}  // namespace sidewinder
