#pragma once
// What a layer is: a function of the normed residual stream, to which it adds its result.

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/tensor/sequence_layout.h"
#include "model/autograd/functions.h"
#include "model/autograd/parameter.h"
#include "model/layers/rope_tables.h"
#include "model/options.h"

namespace sidewinder {

// State of one block that is carried from one call to the next (generation).
struct BlockState {
  Tensor conv;  // [rows, W−1, E]
  Tensor scan;  // [rows, E, N]
  // [capacity, K·P]: the cached ones are rows [first_key, end_key). Keys are turned already, unless
  // frequencies depend on the length.
  Tensor keys;
  Tensor values;
  int64_t first_key = 0;
  int64_t end_key = 0;
};

// Of one block: what rows leave to the rows that go on with their last documents, which are the
// next ones of the same lanes.
struct LaneState {
  Var conv;  // [rows, W−1, E]
  Var scan;  // [rows, E, N]
  // [rows · capacity, K, P]: the keys, turned already, that queries to come may see. Those of a row
  // are the last cached[row] of its `capacity`.
  Var keys;
  Var values;
  std::vector<int64_t> cached;
};
using LaneStates = std::vector<LaneState>;  // one per block

// One forward pass.
struct Pass {
  Tape* tape = nullptr;      // null: inference
  Dtype dtype = Dtype::f32;  // of activations; the residual stream is f32 (f64 for f64)
  // Shared: recomputed blocks read them again in the backward pass.
  std::shared_ptr<const SequenceLayout> attention_layout;
  std::shared_ptr<const SequenceLayout> state_layout;  // convolution and scan
  RopeTables* rope_tables = nullptr;                   // of the model
  // What rotary frequencies that depend on the length go by; 0: the rows, or the last position.
  int64_t rope_length = 0;
  BlockState* state = nullptr;  // of the block at hand; generation of one row only
  // Of the block at hand. Rows that the layouts call carried start from `before`; what rows leave
  // goes to `after`, if it is wanted.
  const LaneState* before = nullptr;
  LaneState* after = nullptr;

  Var operator()(Parameter& parameter) const {
    return tape != nullptr ? tape->parameter(parameter) : Tape::frozen(parameter);
  }
};

// The norm in front of a layer.
struct Norm {
  Parameter& weight;
  double eps;
};

// norm(x) · Wᵀ: what every layer begins with.
inline Var normed_linear(const Pass& pass, const Norm& norm, const Var& x, Parameter& weight) {
  return rms_norm_linear(x, pass(norm.weight), norm.eps, pass(weight), pass.dtype);
}

class Layer {
 public:
  virtual ~Layer() = default;
  // x + f(norm(x)), x [T, D] the residual stream.
  virtual Var forward(const Pass& pass, const Norm& norm, const Var& x) = 0;
  virtual void visit(const ParameterVisitor& visitor) = 0;
  // Multiply-adds of matrix products per token, and of attention scores and values per visible
  // (query, key) pair.
  virtual int64_t matrix_elements() const = 0;
  virtual int64_t pair_elements() const { return 0; }
  virtual AttentionPattern pattern() const { return {}; }
  // Of attention; null for layers without one. set_context is for these alone.
  virtual const BlockContext* context() const { return nullptr; }
  virtual void set_context(const BlockContext&) { SIDEWINDER_ASSERT(context() != nullptr); }
};

}  // namespace sidewinder
