#include "kernels/cpu/isa/cross_entropy.h"

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

constexpr float kLowest = -3.402823466e38F;

// Near zero a polynomial, elsewhere 1 − 2/(1 + e^2u), which would lose all digits there.
F32 tanh(F32 u) {
  const F32 size = max(u, -u);
  const F32 far = 1.0F - 2.0F / (1.0F + exp(2.0F * size));
  const F32 square = u * u;
  // Coefficients of the single-precision tanh of Cephes (Moshier), |u| < 0.625.
  F32 p = broadcast(-5.70498872745E-3F);
  p = p * square + 2.06390887954E-2F;
  p = p * square - 5.37397155531E-2F;
  p = p * square + 1.33314422036E-1F;
  p = p * square - 3.33332819422E-1F;
  const F32 near = u + u * square * p;
  const F32 result = select(u < 0.0F, -far, far);
  return select(size < 0.625F, near, result);
}

F32 cap(F32 logits, float soft_cap) { return soft_cap * tanh(logits * (1.0F / soft_cap)); }

SoftmaxStatistics statistics(float* logits, int64_t count, float soft_cap) {
  const int64_t whole = count / kLanes * kLanes;
  const int left = static_cast<int>(count - whole);
  F32 top = broadcast(kLowest);
  if (soft_cap > 0) {
    for (int64_t i = 0; i < whole; i += kLanes) {
      const F32 capped = cap(load(logits + i), soft_cap);
      store(logits + i, capped);
      top = max(capped, top);
    }
    if (left > 0) {
      store_partial(logits + whole, cap(load_partial(logits + whole, left), soft_cap), left);
    }
  } else {
    for (int64_t i = 0; i < whole; i += kLanes) top = max(load(logits + i), top);
  }
  float largest = max_lanes(top);
  for (int64_t i = whole; i < count; ++i) largest = logits[i] > largest ? logits[i] : largest;

  F32 sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sums[j] += exp(load(logits + i + j * kLanes) - largest);
  }
  for (; i < whole; i += kLanes) sums[0] += exp(load(logits + i) - largest);
  if (left > 0) {
    float tail[kLanes];
    for (int j = 0; j < kLanes; ++j) tail[j] = j < left ? logits[whole + j] - largest : kLowest;
    sums[1] += exp(load(tail));
  }
  return {largest, sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]))};
}

template <bool kCapped, typename T>
void gradient_of(T* g, const float* logits, int64_t count, float top, float factor,
                 float soft_cap) {
  const F32 inverse_cap = broadcast(kCapped ? 1.0F / soft_cap : 0.0F);
  const auto gradient = [&](F32 logit) {
    F32 value = factor * exp(logit - top);
    if constexpr (kCapped) {
      const F32 share = logit * inverse_cap;
      value *= 1.0F - share * share;
    }
    return value;
  };
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) store(g + i, gradient(load(logits + i)));
  if (const int left = static_cast<int>(count - whole); left > 0) {
    store_partial(g + whole, gradient(load_partial(logits + whole, left)), left);
  }
}

template <typename T>
void gradient(T* g, const float* logits, int64_t count, float top, float factor, float soft_cap) {
  if (soft_cap > 0) {
    gradient_of<true>(g, logits, count, top, factor, soft_cap);
  } else {
    gradient_of<false>(g, logits, count, top, factor, soft_cap);
  }
}

}  // namespace

extern const CrossEntropyKernels cross_entropy_kernels = {statistics, gradient<float>,
                                                          gradient<uint16_t>};

}  // namespace sidewinder::SIDEWINDER_ISA
