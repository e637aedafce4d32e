#include "kernels/cpu/isa/swiglu.h"

#include "kernels/cpu/isa/elementwise.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// For bf16 results the exponent's own rounding, 1e-6 relative, does not matter.
template <typename T>
inline F32 sigmoid_for(F32 x) {
  if constexpr (sizeof(T) == sizeof(float)) return sigmoid(x);
  return 1.0F / (1.0F + exp2(x * -kLog2E));
}

template <typename T>
void forward(const SwigluRows& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    T* y = static_cast<T*>(a.y) + row * a.y_stride;
    const T* gate = static_cast<const T*>(a.gate_up) + row * a.gate_up_stride;
    const T* up = gate + a.width;
    for_each_vector(a.width, [&](int64_t i, int count) {
      prefetch(gate + i, a.gate_up_stride);
      prefetch(up + i, a.gate_up_stride);
      const F32 g = load_count(gate + i, count);
      store_count(y + i, g * sigmoid_for<T>(g) * load_count(up + i, count), count);
    });
  }
}

template <typename T, bool kWithForward>
void backward(const SwigluBackwardRows& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    T* dgate = static_cast<T*>(a.dgate_up) + row * a.dgate_up_stride;
    T* dup = dgate + a.width;
    T* y = static_cast<T*>(a.y) + (kWithForward ? row * a.y_stride : 0);
    const T* dy = static_cast<const T*>(a.dy) + row * a.dy_stride;
    const T* gate = static_cast<const T*>(a.gate_up) + row * a.gate_up_stride;
    const T* up = gate + a.width;
    for_each_vector(a.width, [&](int64_t i, int count) {
      prefetch(gate + i, a.gate_up_stride);
      prefetch(up + i, a.gate_up_stride);
      prefetch(dy + i, a.dy_stride);
      const F32 g = load_count(gate + i, count);
      const F32 gradient = load_count(dy + i, count);
      const F32 u = load_count(up + i, count);
      const F32 s = sigmoid_for<T>(g);
      const F32 derivative = s * (1.0F + g * (1.0F - s));
      store_count(dgate + i, gradient * u * derivative, count);
      store_count(dup + i, gradient * (g * s), count);
      if constexpr (kWithForward) store_count(y + i, g * s * u, count);
    });
  }
}

void forward_any(const SwigluRows& a) { (a.bf16 ? forward<uint16_t> : forward<float>)(a); }
void backward_any(const SwigluBackwardRows& a) {
  if (a.y != nullptr) {
    (a.bf16 ? backward<uint16_t, true> : backward<float, true>)(a);
  } else {
    (a.bf16 ? backward<uint16_t, false> : backward<float, false>)(a);
  }
}

}  // namespace

extern const SwigluLoops swiglu_loops = {forward_any, backward_any};

}  // namespace sidewinder::SIDEWINDER_ISA
