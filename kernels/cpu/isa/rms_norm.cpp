#include "kernels/cpu/isa/rms_norm.h"

#include "kernels/cpu/isa/elementwise.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

float reciprocal_root(float value) { return 1.0F / __builtin_sqrtf(value); }

template <typename Y, typename X>
void forward(const RmsNormRows& a) {
  for (int64_t group = 0; group < a.rows * a.groups; ++group) {
    const int64_t row = group / a.groups;
    const int64_t offset = group % a.groups * a.width;
    const X* x = static_cast<const X*>(a.x) + row * a.x_stride + offset;
    Y* y = static_cast<Y*>(a.y) + row * a.y_stride + offset;
    const float sum = sum_over(a.width, [&](int64_t i, int count) {
      prefetch(x + i, a.x_stride);
      const F32 value = load_count(x + i, count);
      return value * value;
    });
    const float rstd = reciprocal_root(sum / static_cast<float>(a.width) + a.eps);
    a.rstd[group] = rstd;
    const auto value = [&](int64_t i, int count) {
      return load_count(x + i, count) * rstd * load_count(a.weight + i, count);
    };
    for_each_pair(
        a.width,
        [&](int64_t i) {
          store_pair(a.streams, y + i, value(i, kLanes), value(i + kLanes, kLanes));
        },
        [&](int64_t i, int count) { store_count(y + i, value(i, count), count); });
  }
  if (a.streams) stream_fence();
}

template <typename DX, typename DY, typename X>
void backward(const RmsNormBackwardRows& a) {
  for (int64_t group = 0; group < a.rows * a.groups; ++group) {
    const int64_t row = group / a.groups;
    const int64_t offset = group % a.groups * a.width;
    const X* x = static_cast<const X*>(a.x) + row * a.x_stride + offset;
    const DY* dy = static_cast<const DY*>(a.dy) + row * a.dy_stride + offset;
    DX* dx = static_cast<DX*>(a.dx) + row * a.dx_stride + offset;
    DY* y = a.y == nullptr ? nullptr : static_cast<DY*>(a.y) + row * a.y_stride + offset;
    const float rstd = a.rstd[group];
    const float sum = sum_over(a.width, [&](int64_t i, int count) {
      return load_count(dy + i, count) * load_count(a.weight + i, count) * load_count(x + i, count);
    });
    const float mean = sum * rstd / static_cast<float>(a.width);  // of e · x̂
    for_each_vector(a.width, [&](int64_t i, int count) {
      const F32 gradient = load_count(dy + i, count);
      const F32 normal = load_count(x + i, count) * rstd;
      const F32 weight = load_count(a.weight + i, count);
      F32 result = (gradient * weight - normal * mean) * rstd;
      if (a.accumulate) result += load_count(dx + i, count);
      store_count(dx + i, result, count);
      store_count(a.dweight + i, load_count(a.dweight + i, count) + gradient * normal, count);
      if (y != nullptr) store_count(y + i, normal * weight, count);
    });
  }
}

void forward_any(const RmsNormRows& a) {
  if (a.x_bf16) {
    (a.y_bf16 ? forward<uint16_t, uint16_t> : forward<float, uint16_t>)(a);
  } else {
    (a.y_bf16 ? forward<uint16_t, float> : forward<float, float>)(a);
  }
}

template <typename DX, typename DY>
void backward_any_x(const RmsNormBackwardRows& a) {
  (a.x_bf16 ? backward<DX, DY, uint16_t> : backward<DX, DY, float>)(a);
}

void backward_any(const RmsNormBackwardRows& a) {
  if (a.dx_bf16) {
    (a.dy_bf16 ? backward_any_x<uint16_t, uint16_t> : backward_any_x<uint16_t, float>)(a);
  } else {
    (a.dy_bf16 ? backward_any_x<float, uint16_t> : backward_any_x<float, float>)(a);
  }
}

}  // namespace

extern const RmsNormLoops rms_norm_loops = {forward_any, backward_any};

}  // namespace sidewinder::SIDEWINDER_ISA
