#pragma once
// Every differentiable function. Each runs an operation of kernels/ops, or two where the result
// between them is not worth keeping, and records how to go back; formulas are in the operation's
// header. Inputs without a tape make outputs without one: inference.

#include <span>
#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/linear_cross_entropy.h"
#include "kernels/ops/rope.h"
#include "kernels/tensor/sequence_layout.h"
#include "model/autograd/tape.h"

namespace sidewinder {

// Products are formed in the type of the activations: bf16 activations in bf16, and so on.

Var embedding(const Tensor& ids, const Var& table, Dtype dtype);
Var rms_norm(const Var& x, const Var& weight, double eps, Dtype dtype);
// x · Wᵀ, as x in type.
Var linear(const Var& x, const Var& weight);
// residual + x · Wᵀ, as the residual in type.
Var linear_add(const Var& x, const Var& weight, const Var& residual);
// rms_norm(x) · Wᵀ, all in `dtype`. Of the normed x nothing is kept: going back makes it again.
Var rms_norm_linear(const Var& x, const Var& norm_weight, double eps, const Var& weight,
                    Dtype dtype);
// residual + swiglu(gate_up) · Wᵀ. Of the activation nothing is kept: going back makes it again,
// and makes the gradient of gate_up in its place if no one else holds it.
Var swiglu_linear_add(const Var& gate_up, const Var& weight, const Var& residual);
Var add(const Var& a, const Var& b);
Var reshape(const Var& x, Shape shape);
// Columns of [T, D] as views of the given widths.
std::vector<Var> split(const Var& x, std::span<const int64_t> widths);
Var rope(const Var& x, const Tensor& position, const RopeTable& table);
// Overwrites the value of x: for one that no function has kept, as the result of a product or norm.
Var rope_in_place(const Var& x, const Tensor& position, const RopeTable& table);
Var attention(const Var& q, const Var& k, const Var& v, const SequenceLayout& layout,
              AttentionPattern pattern, double scale, const Tensor& slopes = {});

// Rows at other places: row `to + i` of the result is row `from + i` of a source, for i < count.
struct RowSpan {
  size_t source = 0;
  int64_t from = 0;
  int64_t to = 0;
  int64_t count = 0;
};
// [rows, …] like the sources, which agree in all but their number of rows. Rows that no span writes
// to are zero; none may be written twice, or read twice where gradients are wanted.
Var gather_rows(const std::vector<Var>& sources, std::vector<RowSpan> spans, int64_t rows);

// State carried into and out of rows, through which gradients flow back.
struct CarriedState {
  Var initial;  // undefined: zero
  bool want_final = false;
  Var final_state;  // set by the call if wanted
};
Var causal_conv(const Var& x, const Var& weight, const Var& bias, const SequenceLayout& layout,
                CarriedState* state = nullptr);

struct ScanVars {
  Var u, delta, a_log, b, c, d, z, delta_bias;  // z may be undefined
};
// With a = −exp(a_log), so that da_log = da · a.
Var selective_scan(const ScanVars& in, const SequenceLayout& layout, CarriedState* state = nullptr);

struct LossOut {
  Var loss;           // f64 [1]
  Tensor token_loss;  // [T]
};
LossOut linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, double scale,
                             const CrossEntropyOptions& options);

}  // namespace sidewinder
