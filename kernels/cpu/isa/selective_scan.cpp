// The forward pass: chunks outside, strips inside. For each strip of a tile, three loops over its
// tokens: discretise (softplus), scan with the states in registers, gate.

#include "kernels/cpu/isa/selective_scan.h"

#include "kernels/cpu/isa/selective_scan_tile.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// States that are kept in registers at a time.
#if defined(__AVX512F__)
constexpr int kWideBlock = 16;
#else
constexpr int kWideBlock = 8;
#endif
constexpr int kNarrowBlock = 8;

// Scratch of one item. `b`, `c` are shared by the strips; `delta`, `input`, `y` are of one strip.
struct ForwardTile {
  int padded;
  float* b;     // [kScanTile][padded]
  float* c;     // [kScanTile][padded]
  F32* delta;   // [kScanTile]  δ
  F32* input;   // [kScanTile]  δ·u
  F32* y;       // [kScanTile]  Σ c·h
  F32* rates;   // [strips][padded]  a·log2 e
  F32* states;  // [strips][padded]
};

int64_t forward_scratch(int channels, int states) {
  const int64_t padded = padded_states(states);
  return 2 * kScanTile * padded + 3 * kScanTile * kLanes +
         2 * strips_of(channels) * padded * kLanes;
}

ForwardTile forward_tile(const ScanForwardItem& item) {
  ForwardTile tile;
  tile.padded = padded_states(item.in.states);
  float* next = item.scratch;
  const auto take = [&next](int64_t floats) {
    float* result = next;
    next += floats;
    return result;
  };
  const int64_t strip_floats = int64_t{strips_of(item.in.channels)} * tile.padded * kLanes;
  tile.rates = reinterpret_cast<F32*>(take(strip_floats));
  tile.states = reinterpret_cast<F32*>(take(strip_floats));
  tile.delta = reinterpret_cast<F32*>(take(kScanTile * kLanes));
  tile.input = reinterpret_cast<F32*>(take(kScanTile * kLanes));
  tile.y = reinterpret_cast<F32*>(take(kScanTile * kLanes));
  tile.b = take(int64_t{kScanTile} * tile.padded);
  tile.c = take(int64_t{kScanTile} * tile.padded);
  return tile;
}

// States [n, n + kBlock) over tokens [begin, end).
template <int kBlock>
void scan_piece(const ForwardTile& tile, int begin, int end, bool fresh, const F32* rates,
                F32* states, int n) {
  F32 h[kBlock];
#pragma GCC unroll 16
  for (int i = 0; i < kBlock; ++i) h[i] = fresh ? F32{} : states[n + i];
  for (int t = begin; t < end; ++t) {
    const F32 delta = tile.delta[t];
    const F32 input = tile.input[t];
    const float* b = tile.b + static_cast<int64_t>(t) * tile.padded + n;
    const float* c = tile.c + static_cast<int64_t>(t) * tile.padded + n;
    F32 even = n == 0 ? F32{} : tile.y[t];
    F32 odd = {};
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; i += 2) {
      h[i] = next_state(decay_of(delta, rates[n + i]) * h[i], input, b[i]);
      h[i + 1] = next_state(decay_of(delta, rates[n + i + 1]) * h[i + 1], input, b[i + 1]);
      even += h[i] * c[i];
      odd += h[i + 1] * c[i + 1];
    }
    tile.y[t] = even + odd;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kBlock; ++i) states[n + i] = h[i];
}

template <typename T>
void forward_of(const ScanForwardItem& item) {
  const ScanGroup& in = item.in;
  const ForwardTile tile = forward_tile(item);
  const int strips = strips_of(in.channels);
  for (int s = 0; s < strips; ++s) {
    F32* states = tile.states + s * tile.padded;
    load_states(in.a + s * kLanes * in.a_stride, in.a_stride, strip_count(in.channels, s),
                in.states, kLog2E, tile.rates + s * tile.padded);
    if (item.initial != nullptr) {
      load_states(item.initial + s * kLanes * in.states, in.states, strip_count(in.channels, s),
                  in.states, 1.0F, states);
    } else {
      for (int n = 0; n < tile.padded; ++n) states[n] = F32{};
    }
  }

  int64_t first_reset = 0;
  for (int64_t origin = 0; origin < in.row_length; origin += kScanTile) {
    const int64_t left = in.row_length - origin;
    const int tokens = left < kScanTile ? static_cast<int>(left) : kScanTile;
    while (first_reset < in.num_resets && in.resets[first_reset] < origin) ++first_reset;
    load_projection(static_cast<const T*>(in.b) + origin * in.b_stride, in.b_stride, tokens,
                    in.states, tile.b);
    load_projection(static_cast<const T*>(in.c) + origin * in.c_stride, in.c_stride, tokens,
                    in.states, tile.c);
    for (int s = 0; s < strips; ++s) {
      const int count = strip_count(in.channels, s);
      const F32* rates = tile.rates + s * tile.padded;
      F32* states = tile.states + s * tile.padded;
      if (item.chunk_states != nullptr) {
        store_states(
            item.chunk_states + origin / kScanTile * item.chunk_stride + s * kLanes * in.states,
            in.states, count, in.states, states);
      }

      const T* u = static_cast<const T*>(in.u) + origin * in.u_stride + s * kLanes;
      const T* raw = static_cast<const T*>(in.delta) + origin * in.delta_stride + s * kLanes;
      const F32 bias = load_strip(in.delta_bias + s * kLanes, count);
      for (int t = 0; t < tokens; ++t) {
        const F32 delta = softplus(load_strip(raw + t * in.delta_stride, count) + bias).value;
        tile.delta[t] = delta;
        tile.input[t] = delta * load_strip(u + t * in.u_stride, count);
      }

      for_each_piece(in, first_reset, origin, tokens, [&](int begin, int end, bool fresh) {
        int n = 0;
        for (; n + kWideBlock <= tile.padded; n += kWideBlock) {
          scan_piece<kWideBlock>(tile, begin, end, fresh, rates, states, n);
        }
        if (n < tile.padded) scan_piece<kNarrowBlock>(tile, begin, end, fresh, rates, states, n);
      });

      const F32 skip = load_strip(in.d + s * kLanes, count);
      T* out = static_cast<T*>(item.out) + origin * item.out_stride + s * kLanes;
      if (in.z == nullptr) {
        for (int t = 0; t < tokens; ++t) {
          const F32 y = tile.y[t] + skip * load_strip(u + t * in.u_stride, count);
          store_strip(out + t * item.out_stride, y, count);
        }
      } else {
        const T* z = static_cast<const T*>(in.z) + origin * in.z_stride + s * kLanes;
        for (int t = 0; t < tokens; ++t) {
          const F32 y = tile.y[t] + skip * load_strip(u + t * in.u_stride, count);
          store_strip(out + t * item.out_stride, y * silu(load_strip(z + t * in.z_stride, count)),
                      count);
        }
      }
    }
  }

  for (int s = 0; s < strips && item.final_state != nullptr; ++s) {
    store_states(item.final_state + s * kLanes * in.states, in.states, strip_count(in.channels, s),
                 in.states, tile.states + s * tile.padded);
  }
}

void forward(const ScanForwardItem& item) {
  if (item.in.bf16) {
    forward_of<uint16_t>(item);
  } else {
    forward_of<float>(item);
  }
}

}  // namespace

extern const ScanLoops selective_scan_loops = {
    kLanes,  forward_scratch,        selective_scan_backward_scratch, selective_scan_sums,
    forward, selective_scan_backward};

}  // namespace sidewinder::SIDEWINDER_ISA
