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
  F32* y;       // [kScanTile]  D·u + Σ c·h
  F32* rates;   // [strips][padded]  a·log2 e
  F32* states;  // [strips][padded], of the item
};

int64_t forward_scratch(int channels, int states) {
  const int64_t padded = padded_states(states);
  return 2 * kScanTile * padded + 3 * kScanTile * kLanes + strips_of(channels) * padded * kLanes;
}

int64_t forward_states(int channels, int states) {
  return int64_t{strips_of(channels)} * padded_states(states) * kLanes;
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
  tile.rates = reinterpret_cast<F32*>(take(forward_states(item.in.channels, item.in.states)));
  tile.states = reinterpret_cast<F32*>(item.states);
  tile.delta = reinterpret_cast<F32*>(take(kScanTile * kLanes));
  tile.input = reinterpret_cast<F32*>(take(kScanTile * kLanes));
  tile.y = reinterpret_cast<F32*>(take(kScanTile * kLanes));
  tile.b = take(int64_t{kScanTile} * tile.padded);
  tile.c = take(int64_t{kScanTile} * tile.padded);
  return tile;
}

// States [n, n + kBlock) over tokens [begin, end).
template <int kBlock, bool kNear>
void scan_piece(const ForwardTile& tile, int begin, int end, bool fresh, int strip, int n,
                RowPrefetch& prefetch) {
  const F32* rates = tile.rates + strip * tile.padded + n;
  F32* states = tile.states + strip * tile.padded + n;
  const int64_t padded = tile.padded;
  const float* b = tile.b + begin * padded + n;
  const float* c = tile.c + begin * padded + n;
  const Exp2 exp2_of;
  F32 h[kBlock];
#pragma GCC unroll 16
  for (int i = 0; i < kBlock; ++i) h[i] = fresh ? F32{} : states[i];
  for (int64_t t = begin; t < end; ++t, b += padded, c += padded) {
    if (n == 0) prefetch.step<RowPrefetch::kFirst>();
    const F32 delta = tile.delta[t];
    const F32 input = tile.input[t];
    F32 even = tile.y[t];
    F32 odd = {};
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; i += 2) {
      const F32 decay = exp2_of.raise<kNear>(delta, rates[i]);
      const F32 decay_odd = exp2_of.raise<kNear>(delta, rates[i + 1]);
      h[i] = next_state(decay * h[i], input, b[i]);
      h[i + 1] = next_state(decay_odd * h[i + 1], input, b[i + 1]);
      even = multiply_add(h[i], broadcast(c[i]), even);
      odd = multiply_add(h[i + 1], broadcast(c[i + 1]), odd);
    }
    tile.y[t] = even + odd;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kBlock; ++i) states[i] = h[i];
}

template <bool kNear>
void scan_states(const ForwardTile& tile, int begin, int end, bool fresh, int strip,
                 RowPrefetch& prefetch) {
  int n = 0;
  for (; n + kWideBlock <= tile.padded; n += kWideBlock) {
    scan_piece<kWideBlock, kNear>(tile, begin, end, fresh, strip, n, prefetch);
  }
  if (n < tile.padded) {
    scan_piece<kNarrowBlock, kNear>(tile, begin, end, fresh, strip, n, prefetch);
  }
}

// One strip of one tile: pointers are at the tile's first token and the strip's first channel.
template <typename T>
struct Strip {
  Strip(const ScanForwardItem& item, int64_t origin, int strip_tokens, int s)
      : u(static_cast<const T*>(item.in.u) + origin * item.in.u_stride + s * kLanes),
        delta(static_cast<const T*>(item.in.delta) + origin * item.in.delta_stride + s * kLanes),
        z(item.in.z == nullptr
              ? nullptr
              : static_cast<const T*>(item.in.z) + origin * item.in.z_stride + s * kLanes),
        out(static_cast<T*>(item.out) + origin * item.out_stride + s * kLanes),
        count(strip_count(item.in.channels, s)),
        tokens(strip_tokens) {}

  const T* u;
  const T* delta;
  const T* z;
  T* out;
  int count;
  int tokens;
};

// Returns the largest δ of each channel.
template <typename T>
F32 discretise(const ScanForwardItem& item, const Strip<T>& strip, F32 bias, F32 skip,
               const ForwardTile& tile) {
  const ScanGroup& in = item.in;
  F32 largest = {};
  with_count(strip.count, [&](auto count) {
    for_each_pack(
        strip.tokens, [&](auto pack, int t) __attribute__((always_inline)) {
          const auto raw = map([&](F32 v) { return v + bias; },
                               load_rows(pack, strip.delta, in.delta_stride, t, count));
          const auto delta = softplus(raw).value;
          const auto u = load_rows(pack, strip.u, in.u_stride, t, count);
          store_rows(tile.delta, t, delta);
          store_rows(tile.input, t, map([](F32 d, F32 v) { return d * v; }, delta, u));
          store_rows(tile.y, t, map([&](F32 v) { return skip * v; }, u));
          for (const F32 value : delta.at) largest = max(largest, value);
        });
  });
  return largest;
}

template <typename T>
void finish(const ScanForwardItem& item, const Strip<T>& strip, const ForwardTile& tile) {
  const ScanGroup& in = item.in;
  with_count(strip.count, [&](auto count) {
    for_each_pack(
        strip.tokens, [&](auto pack, int t) __attribute__((always_inline)) {
          auto y = load_rows(pack, tile.y, t);
          if (strip.z != nullptr) {
            const auto z = load_rows(pack, strip.z, in.z_stride, t, count);
            y = map([](F32 v, F32 x, F32 s) { return v * (x * s); }, y, z, sigmoid(z));
          }
          store_rows(strip.out, item.out_stride, t, count, y);
        });
  });
}

// Of the chunk after this one.
template <typename T>
RowPrefetch next_tile(const ScanForwardItem& item, int64_t chunk) {
  constexpr int64_t kSize = sizeof(T);
  RowPrefetch prefetch(item.scratch, item.in.channels * kSize, kLanes * kSize);
  int64_t token = (chunk + 1) * kScanTile;
  int64_t channel = 0;
  if (chunk + 1 == item.chunk_end) {
    token = item.in.next_token;
    channel = item.in.next_channel;
    if (token < 0) return prefetch;
  }
  const auto add = [&](const void* p, int64_t stride) {
    if (p == nullptr) return;
    prefetch.add(static_cast<const T*>(p) + token * stride + channel, stride * kSize);
  };
  add(item.in.u, item.in.u_stride);
  add(item.in.delta, item.in.delta_stride);
  add(item.in.z, item.in.z_stride);
  add(item.out, item.out_stride);
  return prefetch;
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
    if (item.chunk_begin > 0) continue;
    if (item.initial != nullptr) {
      load_states(item.initial + s * kLanes * in.states, in.states, strip_count(in.channels, s),
                  in.states, 1.0F, states);
    } else {
      for (int n = 0; n < tile.padded; ++n) states[n] = F32{};
    }
  }

  for (int64_t chunk = item.chunk_begin; chunk < item.chunk_end; ++chunk) {
    const int64_t origin = chunk * kScanTile;
    const int64_t left = in.row_length - origin;
    const int tokens = left < kScanTile ? static_cast<int>(left) : kScanTile;
    const int64_t first_reset = first_reset_from(in.resets, in.num_resets, origin);
    load_projection(static_cast<const T*>(in.b) + origin * in.b_stride, in.b_stride, tokens,
                    in.states, tile.b);
    load_projection(static_cast<const T*>(in.c) + origin * in.c_stride, in.c_stride, tokens,
                    in.states, tile.c);
    RowPrefetch prefetch = next_tile<T>(item, chunk);
    for (int s = 0; s < strips; ++s) {
      if (item.chunk_states != nullptr) {
        store_states(item.chunk_states + chunk * item.chunk_stride + s * kLanes * in.states,
                     in.states, strip_count(in.channels, s), in.states,
                     tile.states + s * tile.padded);
      }

      const Strip<T> strip(item, origin, tokens, s);
      const F32 largest_delta =
          discretise(item, strip, load_count(in.delta_bias + s * kLanes, strip.count),
                     load_count(in.d + s * kLanes, strip.count), tile);
      const bool near =
          all_near(largest_delta, largest_rate(tile.rates + s * tile.padded, tile.padded));

      for_each_piece(in, first_reset, origin, tokens, [&](int begin, int end, bool fresh) {
        if (near) {
          scan_states<true>(tile, begin, end, fresh, s, prefetch);
        } else {
          scan_states<false>(tile, begin, end, fresh, s, prefetch);
        }
      });

      finish(item, strip, tile);
    }
  }

  const bool wanted = item.final_state != nullptr && item.chunk_end * kScanTile >= in.row_length;
  for (int s = 0; s < strips && wanted; ++s) {
    store_states(item.final_state + s * kLanes * in.states, in.states, strip_count(in.channels, s),
                 in.states, tile.states + s * tile.padded);
  }
  stream_fence();
}

void forward(const ScanForwardItem& item) {
  if (item.in.bf16) {
    forward_of<uint16_t>(item);
  } else {
    forward_of<float>(item);
  }
}

}  // namespace

extern const ScanLoops selective_scan_loops = {kLanes,
                                               forward_scratch,
                                               forward_states,
                                               selective_scan_backward_scratch,
                                               selective_scan_sums,
                                               forward,
                                               selective_scan_backward,
                                               selective_scan_add_groups};

}  // namespace sidewinder::SIDEWINDER_ISA
