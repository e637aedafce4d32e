#pragma once
// What a layer is: a function of normed activations that adds its result to the residual stream.

#include <cstdint>
#include <memory>

#include "kernels/base/check.h"
#include "kernels/tensor/sequence_layout.h"
#include "model/autograd/functions.h"
#include "model/autograd/parameter.h"
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

// One forward pass.
struct Pass {
  Tape* tape = nullptr;      // null: inference
  Dtype dtype = Dtype::f32;  // of activations; the residual stream is f32 (f64 for f64)
  // Shared: recomputed blocks read them again in the backward pass.
  std::shared_ptr<const SequenceLayout> attention_layout;
  std::shared_ptr<const SequenceLayout> state_layout;  // convolution and scan
  BlockState* state = nullptr;  // of the block at hand; generation of one row only

  Var operator()(Parameter& parameter) const {
    return tape != nullptr ? tape->parameter(parameter) : Tape::frozen(parameter);
  }
};

class Layer {
 public:
  virtual ~Layer() = default;
  // residual + f(x), x [T, D] normed.
  virtual Var forward(const Pass& pass, const Var& x, const Var& residual) = 0;
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
