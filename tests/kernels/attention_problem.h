#pragma once
// One problem of attention, its plainest computation, and the comparison of a kernel with it and
// with the f64 reference.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/ops/attention.h"
#include "tests/support/patterns.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder::testing {

// ---- The problem of one test and its tensors

struct Problem {
  SequenceLayout layout;
  AttentionPattern pattern = {};
  int64_t heads = 2;
  int64_t kv_heads = 2;
  int64_t width = 64;
  int64_t value_width = 64;
  float scale = 0.125F;
  Tensor slopes = {};

  double bias(int64_t head, int64_t distance) const {
    return slopes.defined() ? -slopes.at(head) * static_cast<double>(distance) : 0.0;
  }
};

inline SequenceLayout packed(int64_t rows, int64_t row_length, const std::vector<int32_t>& starts) {
  return SequenceLayout::packed(rows, row_length, starts);
}

struct Inputs {
  Tensor q, k, v, dout;
};

struct Results {
  Tensor out, lse, dq, dk, dv;
};

inline Inputs random_inputs(const Problem& p, Dtype dtype, uint64_t seed = 1) {
  Inputs inputs;
  inputs.q = random_normal({p.layout.tokens(), p.heads, p.width}, dtype, seed);
  inputs.k = random_normal({p.layout.keys(), p.kv_heads, p.width}, dtype, seed + 1);
  inputs.v = random_normal({p.layout.keys(), p.kv_heads, p.value_width}, dtype, seed + 2);
  inputs.dout = random_normal({p.layout.tokens(), p.heads, p.value_width}, dtype, seed + 3);
  return inputs;
}

inline Inputs to(const Inputs& inputs, Dtype dtype) {
  return {inputs.q.to(dtype), inputs.k.to(dtype), inputs.v.to(dtype), inputs.dout.to(dtype)};
}

inline Results run(const Problem& p, const Inputs& inputs) {
  const auto [out, lse] =
      ops::attention(inputs.q, inputs.k, inputs.v, p.layout, p.pattern, p.scale, p.slopes);
  const auto [dq, dk, dv] = ops::attention_backward(inputs.dout, inputs.q, inputs.k, inputs.v, out,
                                                    lse, p.layout, p.pattern, p.scale, p.slopes);
  return {out, lse, dq, dk, dv};
}

// ---- The plainest computation in a dtype: f32 sums; for bf16 the probabilities, the score
// gradients and the results are rounded, as any implementation with bf16 products has to.

inline float rounded(float value, Dtype dtype) {
  return dtype == Dtype::bf16 ? static_cast<float>(Bf16(value)) : value;
}

inline Results naive(const Problem& p, const Inputs& given, Dtype dtype) {
  const Inputs in = to(given, Dtype::f32);
  const int64_t tokens = p.layout.tokens();
  const int64_t group = p.heads / p.kv_heads;
  Results r{Tensor::zeros({tokens, p.heads, p.value_width}, Dtype::f32),
            Tensor::zeros({tokens, p.heads}, Dtype::f32), Tensor::zeros(in.q.shape(), Dtype::f32),
            Tensor::zeros(in.k.shape(), Dtype::f32), Tensor::zeros(in.v.shape(), Dtype::f32)};
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t self = p.layout.key_of(t);
    std::vector<int64_t> keys;
    const int64_t first = p.layout.first_key.data<int32_t>()[t];
    for (int64_t key = first; key <= self; ++key) {
      if (p.pattern.allows(self - first, key - first)) keys.push_back(key);
    }
    for (int64_t h = 0; h < p.heads; ++h) {
      const float* q = in.q.data<float>() + (t * p.heads + h) * p.width;
      const float* dout = in.dout.data<float>() + (t * p.heads + h) * p.value_width;
      float* out = r.out.data<float>() + (t * p.heads + h) * p.value_width;
      float* dq = r.dq.data<float>() + (t * p.heads + h) * p.width;
      const auto row = [&](const Tensor& x, int64_t key) {
        return x.data<float>() + (key * p.kv_heads + h / group) * x.size(2);
      };
      std::vector<float> scores;
      float largest = -std::numeric_limits<float>::infinity();
      for (const int64_t key : keys) {
        float sum = 0;
        for (int64_t d = 0; d < p.width; ++d) sum += q[d] * row(in.k, key)[d];
        scores.push_back(p.scale * sum + static_cast<float>(p.bias(h, self - key)));
        largest = std::max(largest, scores.back());
      }
      float total = 0;
      for (const float score : scores) total += std::exp(score - largest);
      const float lse = largest + std::log(total);
      r.lse.data<float>()[t * p.heads + h] = lse;
      auto score = scores.begin();
      for (const int64_t key : keys) {
        const float probability = rounded(std::exp(*score++ - lse), dtype);
        for (int64_t d = 0; d < p.value_width; ++d) out[d] += probability * row(in.v, key)[d];
      }
      float delta = 0;
      for (int64_t d = 0; d < p.value_width; ++d) {
        out[d] = rounded(out[d], dtype);
        delta += out[d] * dout[d];
      }
      score = scores.begin();
      for (const int64_t key : keys) {
        const float probability = std::exp(*score++ - lse);
        float dp = 0;
        for (int64_t d = 0; d < p.value_width; ++d) dp += dout[d] * row(in.v, key)[d];
        const float ds = rounded(probability * (dp - delta), dtype);
        const float weight = rounded(probability, dtype);
        for (int64_t d = 0; d < p.value_width; ++d) row(r.dv, key)[d] += weight * dout[d];
        for (int64_t d = 0; d < p.width; ++d) {
          row(r.dk, key)[d] += p.scale * ds * q[d];
          dq[d] += p.scale * ds * row(in.k, key)[d];
        }
      }
    }
  }
  return {r.out.to(dtype), r.lse, r.dq.to(dtype), r.dk.to(dtype), r.dv.to(dtype)};
}

inline double distance(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.count(); ++i) sum += (a.at(i) - b.at(i)) * (a.at(i) - b.at(i));
  return std::sqrt(sum);
}

// `allowance` per element, where elements are of order one: gradients that are exactly zero in the
// plain computation (a query with one key) are a rounding error here.
inline void expect_at_most_twice_naive(const char* what, const Tensor& actual, const Tensor& plain,
                                       const Tensor& exact, double allowance) {
  EXPECT_LE(distance(actual, exact),
            2 * distance(plain, exact) + allowance * std::sqrt(static_cast<double>(exact.count())))
      << what;
}

inline void expect_matches_reference(const Problem& p, Dtype dtype, const Inputs& inputs) {
  const Results exact = run(p, to(inputs, Dtype::f64));
  const Results plain = naive(p, inputs, dtype);
  const Results actual = run(p, inputs);
  const double allowance = dtype == Dtype::bf16 ? 1e-5 : 2e-7;
  expect_at_most_twice_naive("out", actual.out, plain.out, exact.out, allowance);
  expect_at_most_twice_naive("lse", actual.lse, plain.lse, exact.lse, allowance);
  expect_at_most_twice_naive("dq", actual.dq, plain.dq, exact.dq, allowance);
  expect_at_most_twice_naive("dk", actual.dk, plain.dk, exact.dk, allowance);
  expect_at_most_twice_naive("dv", actual.dv, plain.dv, exact.dv, allowance);
}
inline void expect_matches_reference(const Problem& p, Dtype dtype) {
  expect_matches_reference(p, dtype, random_inputs(p, dtype));
}
inline void expect_matches_reference(Problem p, const std::vector<AttentionPattern>& patterns,
                                     Dtype dtype) {
  for (const AttentionPattern& pattern : patterns) {
    SCOPED_TRACE(text_of(pattern));
    p.pattern = pattern;
    expect_matches_reference(p, dtype);
  }
}

// Every level that this CPU can run, with both storage types.
class AttentionPath : public PathTest {};

}  // namespace sidewinder::testing
