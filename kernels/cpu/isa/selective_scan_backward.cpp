// The backward pass: chunks outside (the last first), strips inside. For each strip of a tile:
// discretise, rebuild the states from the chunk's saved one onto a tape of decays and decayed
// states, sweep the tokens backwards, finish the gradients of the activations. db and dc are summed
// over the strips as vectors and over the lanes once per tile.

#include "kernels/cpu/isa/selective_scan.h"
#include "kernels/cpu/isa/selective_scan_tile.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// States at a time: their gradients and sums of da stay in registers.
#if defined(__AVX512F__)
constexpr int kBlock = 8;
#else
constexpr int kBlock = 4;
#endif
static_assert(kScanStatePadding % kBlock == 0);
static_assert(2 * kScanStatePadding % kLanes == 0);  // sums of dc and db over squares of vectors

struct Decayed {
  F32 decay;  // exp(δ·a)
  F32 state;  // decay · h of the token before
};

struct BackwardTile {
  int padded;
  float* b;       // [kScanTile][padded]
  float* c;       // [kScanTile][padded]
  F32* delta;     // [kScanTile]  δ
  F32* slope;     // [kScanTile]  ∂δ/∂delta
  F32* u;         // [kScanTile]
  F32* dy;        // [kScanTile]
  F32* y;         // [kScanTile]  Σ c·h
  F32* q;         // [kScanTile]  Σ g·b
  F32* exponent;  // [kScanTile]  Σ g·p·a·log2 e
  Decayed* tape;  // [kScanTile][kBlock]
  F32* dc_db;     // [kScanTile][dc, db][padded], summed over strips
  F32* states;    // [padded]
  F32* rates;     // [strips][padded]
};

constexpr int kTokenBuffers = 7;

struct StripSums {
  F32* gradient;     // [padded]  ∂L/∂h after the tokens done so far, times their decay
  F32* da;           // [padded]
  F32* dd;           // [1]
  F32* ddelta_bias;  // [1]
};

StripSums strip_sums(float* sums, int strip, int padded) {
  F32* vectors = reinterpret_cast<F32*>(sums) + static_cast<int64_t>(strip) * (2 * padded + 2);
  return {vectors, vectors + padded, vectors + 2 * padded, vectors + 2 * padded + 1};
}

BackwardTile backward_tile(const ScanBackwardItem& item) {
  BackwardTile tile;
  tile.padded = padded_states(item.in.states);
  F32* next = reinterpret_cast<F32*>(item.scratch);
  const auto take = [&next](int64_t vectors) {
    F32* result = next;
    next += vectors;
    return result;
  };
  tile.delta = take(kScanTile);
  tile.slope = take(kScanTile);
  tile.u = take(kScanTile);
  tile.dy = take(kScanTile);
  tile.y = take(kScanTile);
  tile.q = take(kScanTile);
  tile.exponent = take(kScanTile);
  tile.tape = reinterpret_cast<Decayed*>(take(2 * kScanTile * kBlock));
  tile.dc_db = take(int64_t{2} * kScanTile * tile.padded);
  tile.states = take(tile.padded);
  tile.rates = take(int64_t{strips_of(item.in.channels)} * tile.padded);
  tile.b = reinterpret_cast<float*>(next);
  tile.c = tile.b + int64_t{kScanTile} * tile.padded;
  return tile;
}

// Rebuilds states [n, n + kBlock) of tokens [begin, end) onto the tape; adds c·h to y.
template <bool kGated>
void record_piece(const BackwardTile& tile, int begin, int end, bool fresh, const F32* rates,
                  int n) {
  F32 h[kBlock];
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) h[i] = fresh ? F32{} : tile.states[n + i];
  for (int t = begin; t < end; ++t) {
    const F32 delta = tile.delta[t];
    const F32 input = delta * tile.u[t];
    const float* b = tile.b + static_cast<int64_t>(t) * tile.padded + n;
    const float* c = tile.c + static_cast<int64_t>(t) * tile.padded + n;
    Decayed* tape = tile.tape + t * kBlock;
    F32 y = n == 0 ? F32{} : tile.y[t];
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; ++i) {
      const F32 decay = decay_of(delta, rates[n + i]);
      const F32 decayed = decay * h[i];
      tape[i] = {decay, decayed};
      h[i] = next_state(decayed, input, b[i]);
      if constexpr (kGated) y += h[i] * c[i];
    }
    if constexpr (kGated) tile.y[t] = y;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) tile.states[n + i] = h[i];
}

// The reverse sweep over the same states and tokens. kFirst: the first strip of the group, which
// begins the sums of db and dc.
template <bool kFirst>
void sweep_piece(const BackwardTile& tile, int begin, int end, bool fresh, const F32* rates,
                 const StripSums& sums, int n) {
  F32 g[kBlock];
  F32 da[kBlock];
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) {
    g[i] = sums.gradient[n + i];
    da[i] = F32{};
  }
  for (int t = end - 1; t >= begin; --t) {
    const F32 delta = tile.delta[t];
    const F32 input = delta * tile.u[t];
    const F32 dy = tile.dy[t];
    const float* b = tile.b + static_cast<int64_t>(t) * tile.padded + n;
    const float* c = tile.c + static_cast<int64_t>(t) * tile.padded + n;
    const Decayed* tape = tile.tape + t * kBlock;
    F32* dc = tile.dc_db + static_cast<int64_t>(t) * 2 * tile.padded + n;
    F32* db = dc + tile.padded;
    F32 q = n == 0 ? F32{} : tile.q[t];
    F32 exponent = n == 0 ? F32{} : tile.exponent[t];
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; ++i) {
      const F32 decayed = tape[i].state;
      const F32 h = next_state(decayed, input, b[i]);
      g[i] += dy * c[i];
      dc[i] = kFirst ? dy * h : dc[i] + dy * h;
      db[i] = kFirst ? g[i] * input : db[i] + g[i] * input;
      q += g[i] * b[i];
      const F32 product = g[i] * decayed;
      exponent += product * rates[n + i];
      da[i] += product * delta;
      g[i] *= tape[i].decay;
    }
    tile.q[t] = q;
    tile.exponent[t] = exponent;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) {
    sums.gradient[n + i] = fresh ? F32{} : g[i];
    sums.da[n + i] += da[i];
  }
}

// One strip of one tile: pointers are at the tile's first token and the strip's first channel.
template <typename T>
struct Strip {
  const T* u;
  const T* delta;
  const T* z;
  const T* dout;
  T* du;
  T* ddelta;
  T* dz;
  int count;
  int tokens;
};

template <typename T>
Strip<T> strip_at(const ScanBackwardItem& item, int64_t origin, int tokens, int s) {
  const auto input = [&](const void* p, int64_t stride) {
    return p == nullptr ? nullptr : static_cast<const T*>(p) + origin * stride + s * kLanes;
  };
  const auto output = [&](void* p, int64_t stride) {
    return p == nullptr ? nullptr : static_cast<T*>(p) + origin * stride + s * kLanes;
  };
  const ScanGroup& in = item.in;
  return {input(in.u, in.u_stride),
          input(in.delta, in.delta_stride),
          input(in.z, in.z_stride),
          input(item.dout, item.dout_stride),
          output(item.du, item.du_stride),
          output(item.ddelta, item.ddelta_stride),
          output(item.dz, item.dz_stride),
          strip_count(in.channels, s),
          tokens};
}

template <typename T>
void prepare(const ScanBackwardItem& item, const Strip<T>& strip, F32 bias,
             const BackwardTile& tile) {
  for (int t = 0; t < strip.tokens; ++t) {
    const Softplus delta =
        softplus(load_strip(strip.delta + t * item.in.delta_stride, strip.count) + bias);
    tile.delta[t] = delta.value;
    tile.slope[t] = delta.slope;
    tile.u[t] = load_strip(strip.u + t * item.in.u_stride, strip.count);
    F32 dy = load_strip(strip.dout + t * item.dout_stride, strip.count);
    if (strip.z != nullptr) dy *= silu(load_strip(strip.z + t * item.in.z_stride, strip.count));
    tile.dy[t] = dy;
  }
}

template <typename T>
void finish(const ScanBackwardItem& item, const Strip<T>& strip, F32 skip, const BackwardTile& tile,
            const StripSums& sums) {
  F32 dd = {};
  F32 ddelta_bias = {};
  for (int t = 0; t < strip.tokens; ++t) {
    const F32 u = tile.u[t];
    const F32 du = skip * tile.dy[t] + tile.delta[t] * tile.q[t];
    const F32 ddelta = (u * tile.q[t] + tile.exponent[t] * kLn2) * tile.slope[t];
    store_strip(strip.du + t * item.du_stride, du, strip.count);
    store_strip(strip.ddelta + t * item.ddelta_stride, ddelta, strip.count);
    dd += tile.dy[t] * u;
    ddelta_bias += ddelta;
    if (strip.z != nullptr) {
      const F32 z = load_strip(strip.z + t * item.in.z_stride, strip.count);
      const F32 dout = load_strip(strip.dout + t * item.dout_stride, strip.count);
      const F32 y = tile.y[t] + skip * u;
      store_strip(strip.dz + t * item.dz_stride, dout * y * silu_derivative(z), strip.count);
    }
  }
  *sums.dd += dd;
  *sums.ddelta_bias += ddelta_bias;
}

template <typename T>
void backward_of(const ScanBackwardItem& item) {
  const ScanGroup& in = item.in;
  const BackwardTile tile = backward_tile(item);
  const int strips = strips_of(in.channels);
  const int padded = tile.padded;
  for (int s = 0; s < strips; ++s) {
    const int count = strip_count(in.channels, s);
    load_states(in.a + s * kLanes * in.a_stride, in.a_stride, count, in.states, kLog2E,
                tile.rates + s * padded);
    if (item.dfinal != nullptr && item.chunk_end * kScanTile >= in.row_length) {
      load_states(item.dfinal + s * kLanes * in.states, in.states, count, in.states, 1.0F,
                  strip_sums(item.sums, s, padded).gradient);
    }
  }

  for (int64_t chunk = item.chunk_end - 1; chunk >= item.chunk_begin; --chunk) {
    const int64_t origin = chunk * kScanTile;
    const int64_t left = in.row_length - origin;
    const int tokens = left < kScanTile ? static_cast<int>(left) : kScanTile;
    const int64_t first_reset = first_reset_from(in, origin);
    load_projection(static_cast<const T*>(in.b) + origin * in.b_stride, in.b_stride, tokens,
                    in.states, tile.b);
    load_projection(static_cast<const T*>(in.c) + origin * in.c_stride, in.c_stride, tokens,
                    in.states, tile.c);
    for (int s = 0; s < strips; ++s) {
      const Strip<T> strip = strip_at<T>(item, origin, tokens, s);
      const StripSums sums = strip_sums(item.sums, s, padded);
      const F32* rates = tile.rates + s * padded;
      load_states(item.chunk_states + chunk * item.chunk_stride + s * kLanes * in.states, in.states,
                  strip.count, in.states, 1.0F, tile.states);
      prepare(item, strip, load_strip(in.delta_bias + s * kLanes, strip.count), tile);
      for (int n = 0; n < padded; n += kBlock) {
        for_each_piece(in, first_reset, origin, tokens, [&](int begin, int end, bool fresh) {
          if (in.z != nullptr) {
            record_piece<true>(tile, begin, end, fresh, rates, n);
          } else {
            record_piece<false>(tile, begin, end, fresh, rates, n);
          }
        });
        for_each_piece_backward(in, first_reset, origin, tokens,
                                [&](int begin, int end, bool fresh) {
                                  if (s == 0) {
                                    sweep_piece<true>(tile, begin, end, fresh, rates, sums, n);
                                  } else {
                                    sweep_piece<false>(tile, begin, end, fresh, rates, sums, n);
                                  }
                                });
      }
      finish(item, strip, load_strip(in.d + s * kLanes, strip.count), tile, sums);
    }
    float* partials = item.partials + (origin - item.chunk_begin * kScanTile) * 2 * padded;
    for (int i = 0; i < tokens * 2 * padded; i += kLanes) {
      store(partials + i, sum_each(tile.dc_db + i));
    }
  }

  if (item.dinitial != nullptr && item.chunk_begin == 0) {
    for (int s = 0; s < strips; ++s) {
      F32* gradient = strip_sums(item.sums, s, padded).gradient;
      store_states(item.dinitial + s * kLanes * in.states, in.states, strip_count(in.channels, s),
                   in.states, gradient);
    }
  }
}

}  // namespace

int64_t selective_scan_backward_scratch(int channels, int states) {
  const int64_t padded = padded_states(states);
  const int64_t vectors = kTokenBuffers * kScanTile + 2 * kScanTile * kBlock +
                          2 * kScanTile * padded + padded + strips_of(channels) * padded;
  return vectors * kLanes + 2 * kScanTile * padded;
}

int64_t selective_scan_sums(int channels, int states) {
  return int64_t{strips_of(channels)} * (2 * padded_states(states) + 2) * kLanes;
}

void selective_scan_backward(const ScanBackwardItem& item) {
  if (item.in.bf16) {
    backward_of<uint16_t>(item);
  } else {
    backward_of<float>(item);
  }
}

}  // namespace sidewinder::SIDEWINDER_ISA
