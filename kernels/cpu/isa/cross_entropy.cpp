#include "kernels/cpu/isa/cross_entropy.h"

#include "kernels/cpu/isa/pack.h"

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

F32 cap(F32 raw, float soft_cap) { return soft_cap * tanh(raw * (1.0F / soft_cap)); }

float largest(const float* raw, int64_t count, float soft_cap) {
  F32 top = broadcast(kLowest);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) top = max(load(raw + i), top);
  float result = max_lanes(top);
  for (; i < count; ++i) result = raw[i] > result ? raw[i] : result;
  return soft_cap > 0 ? cap(broadcast(result), soft_cap)[0] : result;
}

// Below this, exp is 0. Far below it, exp would be too far from its own range to be told.
constexpr float kNothing = -200.0F;

template <bool kCapped, bool kStored, typename T>
SoftmaxStatistics weigh_as(T* weights, const float* raw, int64_t count, float reference,
                           float soft_cap) {
  const float inverse_cap = kCapped ? 1.0F / soft_cap : 0.0F;
  F32 top = broadcast(kLowest);
  F32 sums[4] = {};
  const auto logits_of = [&](F32 value) { return kCapped ? cap(value, soft_cap) : value; };
  const auto weight_of = [&](F32 logit, F32 power) {
    const F32 weight = kWeightScale * power;
    const F32 share = logit * inverse_cap;
    return kCapped ? weight * (1.0F - share * share) : weight;
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    Pack<4> logits;
    for (int j = 0; j < 4; ++j) logits.at[j] = logits_of(load(raw + i + j * kLanes));
    const Pack<4> powers =
        exp(map([&](F32 v) { return max(broadcast(kNothing), subtract(v, broadcast(reference))); },
                logits));
    for (int j = 0; j < 4; ++j) {
      top = max(logits.at[j], top);
      sums[j] += powers.at[j];
      if (kStored) store(weights + i + j * kLanes, weight_of(logits.at[j], powers.at[j]));
    }
  }
  float largest = max_lanes(top);
  for (; i < count; i += kLanes) {
    const int left = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
    const F32 logits = logits_of(load_partial(raw + i, left));
    const F32 powers =
        exp(Pack<1>{max(broadcast(kNothing), subtract(logits, broadcast(reference)))}).at[0];
    float counted[kLanes];
    store(counted, powers);
    for (int j = 0; j < kLanes; ++j) {
      if (j >= left) counted[j] = 0;
      if (j < left && logits[j] > largest) largest = logits[j];
    }
    sums[0] += load(counted);
    if (kStored) store_partial(weights + i, weight_of(logits, powers), left);
  }
  return {largest, sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]))};
}

template <typename T>
SoftmaxStatistics weigh(T* weights, const float* raw, int64_t count, float reference,
                        float soft_cap) {
  if (soft_cap > 0) {
    return weights == nullptr ? weigh_as<true, false>(weights, raw, count, reference, soft_cap)
                              : weigh_as<true, true>(weights, raw, count, reference, soft_cap);
  }
  return weights == nullptr ? weigh_as<false, false>(weights, raw, count, reference, soft_cap)
                            : weigh_as<false, true>(weights, raw, count, reference, soft_cap);
}

template <typename Y, typename X>
void scale_as(Y* y, const X* x, int64_t count, float factor) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, load(x + i) * factor);
  if (i == count) return;
  const int left = static_cast<int>(count - i);
  store_partial(y + i, load_partial(x + i, left) * factor, left);
}

template <typename Y>
void scale_to(Y* y, const void* x, GemmElement x_element, int64_t count, float factor) {
  if (x_element == GemmElement::f32) {
    scale_as(y, static_cast<const float*>(x), count, factor);
  } else {
    scale_as(y, static_cast<const uint16_t*>(x), count, factor);
  }
}

void scale(void* y, GemmElement y_element, const void* x, GemmElement x_element, int64_t count,
           float factor) {
  if (y_element == GemmElement::f32) {
    scale_to(static_cast<float*>(y), x, x_element, count, factor);
  } else {
    scale_to(static_cast<uint16_t*>(y), x, x_element, count, factor);
  }
}

}  // namespace

extern const CrossEntropyKernels cross_entropy_kernels = {largest, weigh<float>, weigh<uint16_t>,
                                                          scale};

}  // namespace sidewinder::SIDEWINDER_ISA
