#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <vector>

namespace sidewinder::reference {
namespace {

template <typename T>
T dot(const T* a, const T* b, int64_t count) {
  T sum{};
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename T>
void add_scaled(T* target, T factor, const T* source, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] += factor * source[i];
}

double real_part(double value) { return value; }
double real_part(const std::complex<double>& value) { return value.real(); }

// Indices of the keys that a token sees.
std::vector<int64_t> visible_keys(const AttentionProblem& problem, int64_t token) {
  const int64_t first = problem.layout.first_key.data<int32_t>()[token];
  const int64_t self = problem.layout.key_of(token);
  const AttentionRow row = problem.pattern.row(self - first);
  std::vector<int64_t> keys;
  const int64_t begin = problem.pattern.contiguous() ? row.first_near : 0;
  for (int64_t key = begin; key <= self - first; ++key) {
    if (row.allows(key)) keys.push_back(first + key);
  }
  return keys;
}

}  // namespace

template <typename T>
void attention_head(const AttentionProblem& problem, const AttentionTensors<T>& tensors,
                    int64_t head) {
  const int64_t kv_head = head / (problem.heads / problem.kv_heads);
  const int64_t width = problem.width;
  const int64_t value_width = problem.value_width;
  std::vector<T> scores;
  for (int64_t t = 0; t < problem.layout.tokens(); ++t) {
    T* out = tensors.out[t] + head * value_width;
    std::fill_n(out, value_width, T{});
    const std::vector<int64_t> keys = visible_keys(problem, t);
    if (keys.empty()) {
      tensors.lse[t][head] = T(-std::numeric_limits<double>::infinity());
      continue;
    }
    const T* query = tensors.q[t] + head * width;
    scores.clear();
    double largest = -std::numeric_limits<double>::infinity();
    for (const int64_t key : keys) {
      scores.push_back(problem.scale * dot(query, tensors.k[key] + kv_head * width, width) +
                       problem.bias(head, problem.layout.key_of(t) - key));
      largest = std::max(largest, real_part(scores.back()));
    }
    T sum{};
    for (T& score : scores) {
      score = std::exp(score - largest);
      sum += score;
    }
    for (size_t i = 0; i < keys.size(); ++i) {
      add_scaled(out, scores[i] / sum, tensors.v[keys[i]] + kv_head * value_width, value_width);
    }
    tensors.lse[t][head] = largest + std::log(sum);
  }
}

template <typename T>
void attention_backward_head(const AttentionProblem& problem,
                             const AttentionGradientTensors<T>& tensors, int64_t kv_head) {
  const int64_t group = problem.heads / problem.kv_heads;
  const int64_t width = problem.width;
  const int64_t value_width = problem.value_width;
  for (int64_t t = 0; t < problem.layout.tokens(); ++t) {
    const std::vector<int64_t> keys = visible_keys(problem, t);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const T* query = tensors.q[t] + head * width;
      const T* dout = tensors.dout[t] + head * value_width;
      T* dquery = tensors.dq[t] + head * width;
      std::fill_n(dquery, width, T{});
      const T delta = dot(dout, tensors.out[t] + head * value_width, value_width);
      for (const int64_t key : keys) {
        const T* k = tensors.k[key] + kv_head * width;
        const T* v = tensors.v[key] + kv_head * value_width;
        const T p =
            std::exp(problem.scale * dot(query, k, width) +
                     problem.bias(head, problem.layout.key_of(t) - key) - tensors.lse[t][head]);
        const T ds = problem.scale * p * (dot(dout, v, value_width) - delta);
        add_scaled(tensors.dv[key] + kv_head * value_width, p, dout, value_width);
        add_scaled(tensors.dk[key] + kv_head * width, ds, query, width);
        add_scaled(dquery, ds, k, width);
      }
    }
  }
}

using Complex = std::complex<double>;
template void attention_head(const AttentionProblem&, const AttentionTensors<double>&, int64_t);
template void attention_head(const AttentionProblem&, const AttentionTensors<Complex>&, int64_t);
template void attention_backward_head(const AttentionProblem&,
                                      const AttentionGradientTensors<double>&, int64_t);
template void attention_backward_head(const AttentionProblem&,
                                      const AttentionGradientTensors<Complex>&, int64_t);

}  // namespace sidewinder::reference
