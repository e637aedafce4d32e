#pragma once
// Attention as plain loops over queries and keys: the oracle of the fast kernels, and the kernel of
// f64 tensors. T is double, or std::complex<double> for complex-step derivatives (exact to 1e-15).

#include <cstdint>

#include "kernels/math/attention_pattern.h"
#include "kernels/tensor/sequence_layout.h"

namespace sidewinder::reference {

// Row t of a [rows, width] matrix begins at data + t · stride.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  T* operator[](int64_t row) const { return data + row * stride; }
};

struct AttentionProblem {
  const SequenceLayout& layout;
  AttentionPattern pattern;
  double scale;
  int64_t heads;        // H
  int64_t kv_heads;     // K
  int64_t width;        // P of queries and keys
  int64_t value_width;  // of values and outputs
  const float* slopes;  // [H], or null
  // Of a score, for a query and a key that is `distance` tokens before it.
  double bias(int64_t head, int64_t distance) const {
    return slopes == nullptr ? 0.0 : -double{slopes[head]} * static_cast<double>(distance);
  }
};

template <typename T>
struct AttentionTensors {
  Rows<T> out;      // [T, H · value_width]
  Rows<T> lse;      // [T, H]
  Rows<const T> q;  // [T, H · width]
  Rows<const T> k;  // [keys, K · width]
  Rows<const T> v;  // [keys, K · value_width]
};

template <typename T>
struct AttentionGradientTensors {
  Rows<T> dq, dk, dv;  // dk and dv must be zero before; the others are overwritten
  Rows<const T> dout;
  Rows<const T> q, k, v, out, lse;
};

// One query head.
template <typename T>
void attention_head(const AttentionProblem& problem, const AttentionTensors<T>& tensors,
                    int64_t head);
// One key/value head and the query heads that use it.
template <typename T>
void attention_backward_head(const AttentionProblem& problem,
                             const AttentionGradientTensors<T>& tensors, int64_t kv_head);

}  // namespace sidewinder::reference
