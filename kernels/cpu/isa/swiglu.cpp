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

template <typename T, bool kStreams>
void forward(const SwigluRows& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    T* y = static_cast<T*>(a.y) + row * a.y_stride;
    const T* gate = static_cast<const T*>(a.gate_up) + row * a.gate_up_stride;
    const T* up = gate + a.width;
    const auto result = [&](int64_t i, int count) {
      prefetch(gate + i, a.gate_up_stride);
      prefetch(up + i, a.gate_up_stride);
      const F32 g = load_count(gate + i, count);
      return g * sigmoid_for<T>(g) * load_count(up + i, count);
    };
    for_each_pair(
        a.width,
        [&](int64_t i) {
          const F32 low = result(i, kLanes);
          store_pair<kStreams>(y + i, low, result(i + kLanes, kLanes));
        },
        [&](int64_t i, int count) { store_count(y + i, result(i, count), count); });
  }
  if constexpr (kStreams) stream_fence();
}

template <typename T, bool kWithForward, bool kStreams>
void backward(const SwigluBackwardRows& a) {
  struct Result {
    F32 dgate, dup, y;
  };
  for (int64_t row = 0; row < a.rows; ++row) {
    T* dgate = static_cast<T*>(a.dgate_up) + row * a.dgate_up_stride;
    T* dup = dgate + a.width;
    T* y = static_cast<T*>(a.y) + (kWithForward ? row * a.y_stride : 0);
    const T* dy = static_cast<const T*>(a.dy) + row * a.dy_stride;
    const T* gate = static_cast<const T*>(a.gate_up) + row * a.gate_up_stride;
    const T* up = gate + a.width;
    const auto result = [&](int64_t i, int count) {
      prefetch(gate + i, a.gate_up_stride);
      prefetch(up + i, a.gate_up_stride);
      prefetch(dy + i, a.dy_stride);
      const F32 g = load_count(gate + i, count);
      const F32 gradient = load_count(dy + i, count);
      const F32 u = load_count(up + i, count);
      const F32 s = sigmoid_for<T>(g);
      const F32 derivative = s * (1.0F + g * (1.0F - s));
      return Result{gradient * u * derivative, gradient * (g * s), g * s * u};
    };
    // All is read before anything is stored: results may lie where operands do.
    for_each_pair(
        a.width,
        [&](int64_t i) {
          const Result low = result(i, kLanes);
          const Result high = result(i + kLanes, kLanes);
          store_pair<kStreams>(dgate + i, low.dgate, high.dgate);
          store_pair<kStreams>(dup + i, low.dup, high.dup);
          if constexpr (kWithForward) store_pair<false>(y + i, low.y, high.y);
        },
        [&](int64_t i, int count) {
          const Result tail = result(i, count);
          store_count(dgate + i, tail.dgate, count);
          store_count(dup + i, tail.dup, count);
          if constexpr (kWithForward) store_count(y + i, tail.y, count);
        });
  }
  if constexpr (kStreams) stream_fence();
}

void forward_any(const SwigluRows& a) {
  if (a.bf16) {
    (a.streams ? forward<uint16_t, true> : forward<uint16_t, false>)(a);
  } else {
    (a.streams ? forward<float, true> : forward<float, false>)(a);
  }
}
void backward_any(const SwigluBackwardRows& a) {
  if (a.y != nullptr) {
    (a.bf16 ? backward<uint16_t, true, false> : backward<float, true, false>)(a);
  } else if (a.streams) {
    (a.bf16 ? backward<uint16_t, false, true> : backward<float, false, true>)(a);
  } else {
    (a.bf16 ? backward<uint16_t, false, false> : backward<float, false, false>)(a);
  }
}

}  // namespace

extern const SwigluLoops swiglu_loops = {forward_any, backward_any};

}  // namespace sidewinder::SIDEWINDER_ISA
