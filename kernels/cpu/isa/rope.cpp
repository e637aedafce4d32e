#include "kernels/cpu/isa/rope.h"

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// (first, second) turned by the angle of (cosine, sine).
struct Pair {
  F32 first, second;
};
Pair turn(F32 a, F32 b, F32 cosine, F32 sine) {
  return {a * cosine - b * sine, b * cosine + a * sine};
}

// Lanes 2i (odd = 0) or 2i + 1 (odd = 1) of the 2 · kLanes elements of a and b.
F32 every_second(F32 a, F32 b, int odd) {
  I32 lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = 2 * i + odd;
  return __builtin_shuffle(a, b, lanes);
}
// a0 b0 a1 b1 …, the first or second half.
F32 alternate(F32 a, F32 b, int half) {
  I32 lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = (i + half * kLanes) / 2 + (i % 2) * kLanes;
  return __builtin_shuffle(a, b, lanes);
}

template <typename T>
void turn_half_split(const RopeRows& rows, const T* x, T* y, const float* cosine, const float* sine,
                     F32 sign) {
  const int64_t pairs = rows.pairs;
  int64_t j = 0;
  for (; j + kLanes <= pairs; j += kLanes) {
    const Pair pair =
        turn(load(x + j), load(x + j + pairs), load(cosine + j), sign * load(sine + j));
    store(y + j, pair.first);
    store(y + j + pairs, pair.second);
  }
  if (j == pairs) return;
  const int rest = static_cast<int>(pairs - j);
  const Pair pair = turn(load_partial(x + j, rest), load_partial(x + j + pairs, rest),
                         load_partial(cosine + j, rest), sign * load_partial(sine + j, rest));
  store_partial(y + j, pair.first, rest);
  store_partial(y + j + pairs, pair.second, rest);
}

template <typename T>
void turn_interleaved(const RopeRows& rows, const T* x, T* y, const float* cosine,
                      const float* sine, F32 sign) {
  const int64_t pairs = rows.pairs;
  int64_t j = 0;
  for (; j + kLanes <= pairs; j += kLanes) {
    const F32 a = load(x + 2 * j);
    const F32 b = load(x + 2 * j + kLanes);
    const Pair pair =
        turn(every_second(a, b, 0), every_second(a, b, 1), load(cosine + j), sign * load(sine + j));
    store(y + 2 * j, alternate(pair.first, pair.second, 0));
    store(y + 2 * j + kLanes, alternate(pair.first, pair.second, 1));
  }
  if (j == pairs) return;
  const int rest = static_cast<int>(pairs - j);
  T buffer[2 * kLanes] = {};
  for (int i = 0; i < 2 * rest; ++i) buffer[i] = x[2 * j + i];
  const F32 a = load(buffer);
  const F32 b = load(buffer + kLanes);
  const Pair pair = turn(every_second(a, b, 0), every_second(a, b, 1),
                         load_partial(cosine + j, rest), sign * load_partial(sine + j, rest));
  store(buffer, alternate(pair.first, pair.second, 0));
  store(buffer + kLanes, alternate(pair.first, pair.second, 1));
  for (int i = 0; i < 2 * rest; ++i) y[2 * j + i] = buffer[i];
}

template <typename T>
void turn_rows(const RopeRows& rows) {
  const F32 sign = broadcast(rows.inverse ? -1.0F : 1.0F);
  for (int64_t t = 0; t < rows.tokens; ++t) {
    const float* cosine = rows.cosine + rows.position[t] * rows.pairs;
    const float* sine = rows.sine + rows.position[t] * rows.pairs;
    for (int64_t head = 0; head < rows.heads; ++head) {
      const T* x = static_cast<const T*>(rows.x) + t * rows.x_stride + head * rows.width;
      T* y = static_cast<T*>(rows.y) + t * rows.y_stride + head * rows.width;
      if (rows.interleaved) {
        turn_interleaved(rows, x, y, cosine, sine, sign);
      } else {
        turn_half_split(rows, x, y, cosine, sine, sign);
      }
      for (int64_t i = 2 * rows.pairs; i < rows.width; ++i) y[i] = x[i];
    }
  }
}

}  // namespace

extern const RopeIsa rope_kernels = {&turn_rows<float>, &turn_rows<uint16_t>};

}  // namespace sidewinder::SIDEWINDER_ISA
