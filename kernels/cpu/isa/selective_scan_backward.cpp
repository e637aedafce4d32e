// The backward pass: chunks outside (the last first), strips inside. For each strip of a tile:
// discretise, rebuild the states from the chunk's saved one onto a tape of states and decays, sweep
// the tokens backwards, finish the gradients of the activations. The terms of db and dc are summed
// over lanes by a tree as they arise, then over strips.

#include "kernels/cpu/isa/elementwise.h"
#include "kernels/cpu/isa/selective_scan.h"
#include "kernels/cpu/isa/selective_scan_tile.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// States at a time: their gradients and sums of da stay in registers, and the terms of their dc and
// db fill one tree of sums over lanes.
constexpr int kBlock = kLanes / 2;
static_assert(kScanStatePadding % kBlock == 0);

struct Recorded {
  F32 state;  // h before the token
  F32 decay;  // exp(δ·a)
};

// Strips whose activations are read and written side by side: their rows share pages, and looking
// up the address of a page takes longer than a strip's part of a row.
constexpr int kStripsTogether = 2;

struct BackwardTile {
  int padded;
  float* b;       // [kScanTile][padded]
  float* c;       // [kScanTile][padded]
  F32* delta;     // [kScanTile]  δ
  F32* slope;     // [kScanTile]  ∂δ/∂delta
  F32* input;     // [kScanTile]  δ·u
  F32* dy;        // [kScanTile]
  F32* u;         // [kScanTile]
  F32* dout;      // [kScanTile]  dout·∂silu(z)/∂z
  F32* y;         // [kScanTile]  Σ c·h
  F32* q;         // [kScanTile]  Σ g·b
  F32* exponent;  // [kScanTile]  Σ g·p·a·log2 e
  Recorded* tape;  // [kTapeEntries][kBlock]
  F32* states;    // [padded]
  F32* rates;     // [strips][padded]
  float* block;   // [kScanTile][2·padded]  sums of dc and db over strips of a block
};

constexpr int kTokenBuffers = 9;
// A piece has one entry per token on the tape, and one for the state after its last. The first is
// at twice its first token, which leaves room for all pieces.
constexpr int kTapeEntries = 2 * kScanTile;

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

// `together`: place of the strip among those worked on side by side, which own their vectors per
// token and share the rest.
BackwardTile backward_tile(const ScanBackwardItem& item, int together) {
  BackwardTile tile;
  tile.padded = padded_states(item.in.states);
  F32* next = reinterpret_cast<F32*>(item.scratch);
  const auto take = [&next](int64_t vectors) {
    F32* result = next;
    next += vectors;
    return result;
  };
  tile.tape = reinterpret_cast<Recorded*>(take(2 * kTapeEntries * kBlock));
  tile.states = take(tile.padded);
  tile.rates = take(int64_t{strips_of(item.in.channels)} * tile.padded);
  next += together * kTokenBuffers * kScanTile;
  tile.delta = take(kScanTile);
  tile.slope = take(kScanTile);
  tile.input = take(kScanTile);
  tile.dy = take(kScanTile);
  tile.u = take(kScanTile);
  tile.dout = take(kScanTile);
  tile.y = take(kScanTile);
  tile.q = take(kScanTile);
  tile.exponent = take(kScanTile);
  next += (kStripsTogether - 1 - together) * kTokenBuffers * kScanTile;
  tile.b = reinterpret_cast<float*>(next);
  tile.c = tile.b + int64_t{kScanTile} * tile.padded;
  tile.block = tile.c + int64_t{kScanTile} * tile.padded;
  return tile;
}

// States [n, n + kBlock) of one strip over tokens [begin, end); a fresh piece begins with a zero
// state.
struct Piece {
  int begin, end;
  bool fresh;
  int n;
  const F32* rates;  // of these states
};

// Rebuilds the states onto the tape; adds c·h to y.
template <bool kGated, bool kNear>
void record_piece(const BackwardTile& tile, const Piece& piece, RowPrefetch& prefetch) {
  const F32* rates = piece.rates;
  F32* states = tile.states + piece.n;
  const int64_t padded = tile.padded;
  const float* b = tile.b + piece.begin * padded + piece.n;
  const float* c = tile.c + piece.begin * padded + piece.n;
  Recorded* tape = tile.tape + 2 * piece.begin * kBlock;
  const Exp2 exp2_of;
  F32 h[kBlock];
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) h[i] = piece.fresh ? F32{} : states[i];
  for (int64_t t = piece.begin; t < piece.end; ++t, b += padded, c += padded, tape += kBlock) {
    if (piece.n == 0) prefetch.step();
    const F32 delta = tile.delta[t];
    const F32 input = tile.input[t];
    F32 y = piece.n == 0 ? F32{} : tile.y[t];
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; ++i) {
      const F32 decay = exp2_of.raise<kNear>(delta, rates[i]);
      tape[i] = {h[i], decay};
      h[i] = next_state(decay * h[i], input, b[i]);
      if constexpr (kGated) y = multiply_add(h[i], broadcast(c[i]), y);
    }
    if constexpr (kGated) tile.y[t] = y;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) tape[i].state = states[i] = h[i];
}

// Terms of dc and db of some states, each in lanes of its own after some levels of the tree.
struct Terms {
  F32 dc, db;
};

template <int kCount, typename TermsOf>
[[gnu::always_inline]] inline Terms sum_terms(const TermsOf& terms_of, int first) {
  if constexpr (kCount == 1) {
    return terms_of(first);
  } else {
    const Terms low = sum_terms<kCount / 2>(terms_of, first);
    const Terms high = sum_terms<kCount / 2>(terms_of, first + kCount / 2);
    return {fold<kCount / 2>(low.dc, high.dc), fold<kCount / 2>(low.db, high.db)};
  }
}

// Where the terms of dc and db of a strip are added up, for the tokens of the tile: `target` is the
// sum of `block` (the strips of the same block before), of `group` (the blocks before) and of the
// strip. Null: there are none.
struct TermSums {
  const float* block;
  const float* group;
  float* target;
};

TermSums term_sums(const ScanBackwardItem& item, int s, float* block, float* group) {
  const int strips_of_block = item.block_channels / kLanes;
  const bool first = s % strips_of_block == 0;
  if (s < strips_of_block) return {first ? nullptr : group, nullptr, group};
  const bool last = (s + 1) % strips_of_block == 0 || s + 1 == strips_of(item.in.channels);
  return {first ? nullptr : block, last ? group : nullptr, last ? group : block};
}

// The reverse sweep over the same states and tokens.
template <bool kBlockBefore, bool kGroupBefore>
void sweep_piece(const BackwardTile& tile, const Piece& piece, const StripSums& sums,
                 const TermSums& terms_of_tile, RowPrefetch& prefetch) {
  const F32* rates = piece.rates;
  F32* gradients = sums.gradient + piece.n;
  F32* da_sums = sums.da + piece.n;
  const int64_t padded = tile.padded;
  const float* b = tile.b + piece.end * padded + piece.n;
  const float* c = tile.c + piece.end * padded + piece.n;
  const Recorded* tape = tile.tape + (piece.begin + piece.end) * kBlock;
  int64_t at = piece.end * 2 * padded + 2 * piece.n;
  F32 g[kBlock];
  F32 da[kBlock];
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) {
    g[i] = gradients[i];
    da[i] = F32{};
  }
  for (int64_t t = piece.end - 1; t >= piece.begin; --t) {
    if (piece.n == 0) prefetch.step();
    b -= padded;
    c -= padded;
    tape -= kBlock;
    at -= 2 * padded;
    const F32 delta = tile.delta[t];
    const F32 input = tile.input[t];
    const F32 dy = tile.dy[t];
    F32 q = piece.n == 0 ? F32{} : tile.q[t];
    F32 exponent = piece.n == 0 ? F32{} : tile.exponent[t];
    const auto terms_of = [&](int i) __attribute__((always_inline))->Terms {
      const F32 h = tape[kBlock + i].state;
      g[i] = multiply_add(dy, broadcast(c[i]), g[i]);
      const Terms terms = {dy * h, g[i] * input};
      q = multiply_add(g[i], broadcast(b[i]), q);
      g[i] *= tape[i].decay;
      const F32 product = g[i] * tape[i].state;
      exponent = multiply_add(product, rates[i], exponent);
      da[i] = multiply_add(product, delta, da[i]);
      return terms;
    };
    const Terms terms = sum_terms<kBlock>(terms_of, 0);
    F32 sum = fold<kBlock>(terms.dc, terms.db);
    if constexpr (kBlockBefore) sum = load(terms_of_tile.block + at) + sum;
    if constexpr (kGroupBefore) sum = load(terms_of_tile.group + at) + sum;
    store(terms_of_tile.target + at, sum);
    tile.q[t] = q;
    tile.exponent[t] = exponent;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) {
    gradients[i] = piece.fresh ? F32{} : g[i];
    da_sums[i] += da[i];
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
  BackwardTile tile;
  StripSums sums;
  F32 bias, skip;
  F32 largest_delta;  // of each channel, from prepare
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
          tokens,
          backward_tile(item, s % kStripsTogether),
          strip_sums(item.sums, s, padded_states(in.states)),
          load_count(in.delta_bias + s * kLanes, strip_count(in.channels, s)),
          load_count(in.d + s * kLanes, strip_count(in.channels, s)),
          F32{}};
}

// Calls of(count), where count(i) is the number of channels of strip i, a constant if all are
// whole.
template <typename T, typename Of>
[[gnu::always_inline]] inline void with_counts(const Strip<T>* strips, int num_strips, Of&& of) {
  bool whole = true;
  for (int i = 0; i < num_strips; ++i) whole = whole && strips[i].count == kLanes;
  if (whole) {
    of([](int) { return std::integral_constant<int, kLanes>{}; });
  } else {
    of([strips](int i) { return strips[i].count; });
  }
}

template <typename T>
void prepare(const ScanBackwardItem& item, Strip<T>* strips, int num_strips) {
  const ScanGroup& in = item.in;
  const int tokens = strips[0].tokens;
  with_counts(strips, num_strips, [&](auto count) {
    for_each_pack(
        tokens, [&](auto pack, int t) __attribute__((always_inline)) {
          for (int i = 0; i < num_strips; ++i) {
            Strip<T>& strip = strips[i];
            const BackwardTile& tile = strip.tile;
            const auto raw = map([&](F32 v) { return v + strip.bias; },
                                 load_rows(pack, strip.delta, in.delta_stride, t, count(i)));
            const auto delta = softplus(raw);
            store_rows(tile.delta, t, delta.value);
            store_rows(tile.slope, t, delta.slope);
            const auto u = load_rows(pack, strip.u, in.u_stride, t, count(i));
            store_rows(tile.u, t, u);
            store_rows(tile.input, t, map([](F32 d, F32 v) { return d * v; }, delta.value, u));
            for (const F32 value : delta.value.at)
              strip.largest_delta = max(strip.largest_delta, value);
          }
        });
    for_each_pack(
        tokens, [&](auto pack, int t) __attribute__((always_inline)) {
          for (int i = 0; i < num_strips; ++i) {
            const Strip<T>& strip = strips[i];
            const BackwardTile& tile = strip.tile;
            const auto dout = load_rows(pack, strip.dout, item.dout_stride, t, count(i));
            if (strip.z == nullptr) {
              store_rows(tile.dy, t, dout);
              continue;
            }
            const auto z = load_rows(pack, strip.z, in.z_stride, t, count(i));
            const auto gate = sigmoid(z);
            store_rows(tile.dy, t,
                       map([](F32 d, F32 x, F32 s) { return d * (x * s); }, dout, z, gate));
            store_rows(
                tile.dout, t,
                map([](F32 d, F32 x, F32 s) { return d * silu_slope(x, s); }, dout, z, gate));
          }
        });
  });
}

// Whether outputs leave past the caches: see stream and stream_pair.
template <typename T>
constexpr bool kStreamed = sizeof(T) == sizeof(float);
#if defined(__AVX512BF16__)
template <>
constexpr bool kStreamed<uint16_t> = true;
#endif

// Tokens t, t + 1, … of an output: rows_of(i) of strip i. Where a line holds two strips it is
// written at once.
template <typename T, int kCount, typename Count, typename RowsOf>
[[gnu::always_inline]] inline void store_out(const Pack<kCount>&, T* Strip<T>::*output,
                                             int64_t stride, int t, const Strip<T>* strips,
                                             int num_strips, Count&& count, RowsOf&& rows_of) {
  constexpr bool kWhole = !std::is_same_v<decltype(count(0)), int>;
  if constexpr (kWhole && kStreamed<T> && sizeof(T) < sizeof(float)) {
    if (num_strips == 2) {
      const Pack<kCount> low = rows_of(0);
      const Pack<kCount> high = rows_of(1);
#pragma GCC unroll 8
      for (int j = 0; j < kCount; ++j) {
        stream_pair(strips[0].*output + (t + j) * stride, low.at[j], high.at[j]);
      }
      return;
    }
  }
  for (int i = 0; i < num_strips; ++i) {
    const Pack<kCount> rows = rows_of(i);
    T* p = strips[i].*output;
    if constexpr (kWhole && sizeof(T) == sizeof(float)) {
#pragma GCC unroll 8
      for (int j = 0; j < kCount; ++j) stream(p + (t + j) * stride, rows.at[j]);
    } else {
      store_rows(p, stride, t, count(i), rows);
    }
  }
}

template <typename T>
void finish(const ScanBackwardItem& item, const Strip<T>* strips, int num_strips) {
  F32 dd[kStripsTogether] = {};
  F32 ddelta_bias[kStripsTogether] = {};
  with_counts(strips, num_strips, [&](auto count) {
    for_each_pack(
        strips[0].tokens, [&](auto pack, int t) __attribute__((always_inline)) {
          const auto du = [&](int i) __attribute__((always_inline)) {
            const BackwardTile& tile = strips[i].tile;
            const auto dy = load_rows(pack, tile.dy, t);
            for (const F32 value :
                 map([](F32 g, F32 v) { return g * v; }, dy, load_rows(pack, tile.u, t)).at) {
              dd[i] += value;
            }
            return map(
                [&](F32 delta, F32 v, F32 g) { return multiply_add(delta, v, strips[i].skip * g); },
                load_rows(pack, tile.delta, t), load_rows(pack, tile.q, t), dy);
          };
          const auto ddelta = [&](int i) __attribute__((always_inline)) {
            const BackwardTile& tile = strips[i].tile;
            const auto rows =
                map([](F32 v, F32 w, F32 e,
                       F32 slope) { return multiply_add(v, w, e * broadcast(kLn2)) * slope; },
                    load_rows(pack, tile.u, t), load_rows(pack, tile.q, t),
                    load_rows(pack, tile.exponent, t), load_rows(pack, tile.slope, t));
            for (const F32 value : rows.at) ddelta_bias[i] += value;
            return rows;
          };
          const auto dz = [&](int i) __attribute__((always_inline)) {
            const BackwardTile& tile = strips[i].tile;
            return map([&](F32 g, F32 v, F32 y) { return g * multiply_add(strips[i].skip, v, y); },
                       load_rows(pack, tile.dout, t), load_rows(pack, tile.u, t),
                       load_rows(pack, tile.y, t));
          };
          store_out(pack, &Strip<T>::du, item.du_stride, t, strips, num_strips, count, du);
          store_out(pack, &Strip<T>::ddelta, item.ddelta_stride, t, strips, num_strips, count,
                    ddelta);
          if (strips[0].dz != nullptr)
            store_out(pack, &Strip<T>::dz, item.dz_stride, t, strips, num_strips, count, dz);
        });
  });
  for (int i = 0; i < num_strips; ++i) {
    *strips[i].sums.dd += dd[i];
    *strips[i].sums.ddelta_bias += ddelta_bias[i];
  }
}

// Strips whose rows are asked for while as many before them are worked on. A whole tile ahead
// would not stay in the second cache.
template <typename T>
constexpr int kAhead = 256 / (kLanes * static_cast<int>(sizeof(T)));

// Where strip `s` of a chunk begins, in the row and the group; past the chunk's last strip, the
// first one of the chunk before, or of what this thread does next. token < 0: nowhere.
struct Place {
  int64_t token, channel;
};

Place place_of(const ScanBackwardItem& item, int64_t chunk, int s) {
  if (s < strips_of(item.in.channels)) return {chunk * kScanTile, int64_t{s} * kLanes};
  if (chunk > item.chunk_begin) return {(chunk - 1) * kScanTile, 0};
  return {item.in.next_token, item.in.next_channel};
}

// The kAhead strips from `s` on.
template <typename T>
RowPrefetch next_rows(const ScanBackwardItem& item, int64_t chunk, int s, bool late) {
  constexpr int64_t kSize = sizeof(T);
  const int first = s < strips_of(item.in.channels) ? s : 0;
  const int channels = item.in.channels - first * kLanes;
  const int ahead = kAhead<T> * kLanes;
  RowPrefetch prefetch(item.scratch, (channels < ahead ? channels : ahead) * kSize, kLanes * kSize);
  const Place place = place_of(item, chunk, s);
  if (place.token < 0) return prefetch;
  const auto add = [&](const void* p, int64_t stride) {
    if (p == nullptr) return;
    prefetch.add(static_cast<const T*>(p) + place.token * stride + place.channel, stride * kSize);
  };
  if (!late) {
    add(item.in.u, item.in.u_stride);
    add(item.in.delta, item.in.delta_stride);
  }
  if (late == kStreamed<T>) {
    add(item.in.z, item.in.z_stride);
    add(item.dout, item.dout_stride);
  }
  if (late && !kStreamed<T>) {
    add(item.du, item.du_stride);
    add(item.ddelta, item.ddelta_stride);
    add(item.dz, item.dz_stride);
  }
  return prefetch;
}

// Asks for the saved states of strip `s` of a chunk.
void prefetch_states(const ScanBackwardItem& item, int64_t chunk, int s) {
  const Place place = place_of(item, chunk, s);
  if (place.token < 0) return;
  constexpr int64_t kLine = 64 / sizeof(float);
  const float* states = item.chunk_states + place.token / kScanTile * item.chunk_stride +
                        place.channel * item.in.states;
  const int64_t floats = kLanes * item.in.states;
  for (int64_t i = 0; i < floats; i += kLine) __builtin_prefetch(states + i);
}

// The two loops over the states of one strip, in blocks.
template <typename T>
void rebuild_and_sweep(const ScanBackwardItem& item, const Strip<T>& strip, int s, int64_t chunk,
                       int64_t first_reset, float* partials, RowPrefetch& early,
                       RowPrefetch& late) {
  const ScanGroup& in = item.in;
  const BackwardTile& tile = strip.tile;
  const int padded = tile.padded;
  const int64_t origin = chunk * kScanTile;
  const F32* rates = tile.rates + s * padded;
  load_states(item.chunk_states + chunk * item.chunk_stride + s * kLanes * in.states, in.states,
              strip.count, in.states, 1.0F, tile.states);
  const bool near = all_near(strip.largest_delta, largest_rate(rates, padded));
  const TermSums terms = term_sums(item, s, tile.block, partials);
  auto* const sweep =
      terms.block == nullptr
          ? (terms.group == nullptr ? sweep_piece<false, false> : sweep_piece<false, true>)
          : (terms.group == nullptr ? sweep_piece<true, false> : sweep_piece<true, true>);
  for (int n = 0; n < padded; n += kBlock) {
    for_each_piece(in, first_reset, origin, strip.tokens, [&](int begin, int end, bool fresh) {
      const Piece piece = {begin, end, fresh, n, rates + n};
      if (in.z != nullptr) {
        near ? record_piece<true, true>(tile, piece, early)
             : record_piece<true, false>(tile, piece, early);
      } else {
        near ? record_piece<false, true>(tile, piece, early)
             : record_piece<false, false>(tile, piece, early);
      }
    });
    for_each_piece_backward(in, first_reset, origin, strip.tokens,
                            [&](int begin, int end, bool fresh) {
                              const Piece piece = {begin, end, fresh, n, rates + n};
                              sweep(tile, piece, strip.sums, terms, late);
                            });
  }
}

template <typename T>
void backward_of(const ScanBackwardItem& item) {
  const ScanGroup& in = item.in;
  const BackwardTile tile = backward_tile(item, 0);
  const int strips = strips_of(in.channels);
  const int padded = tile.padded;
  for (int s = 0; s < strips; ++s) {
    const int count = strip_count(in.channels, s);
    load_states(in.a + s * kLanes * in.a_stride, in.a_stride, count, in.states, kLog2E,
                tile.rates + s * padded);
    if (item.chunk_end * kScanTile < in.row_length) continue;
    F32* gradient = strip_sums(item.sums, s, padded).gradient;
    if (item.dfinal != nullptr) {
      load_states(item.dfinal + s * kLanes * in.states, in.states, count, in.states, 1.0F,
                  gradient);
    } else {
      for (int n = 0; n < padded; ++n) gradient[n] = F32{};
    }
  }

  for (int64_t chunk = item.chunk_end - 1; chunk >= item.chunk_begin; --chunk) {
    const int64_t origin = chunk * kScanTile;
    const int64_t left = in.row_length - origin;
    const int tokens = left < kScanTile ? static_cast<int>(left) : kScanTile;
    const int64_t first_reset = first_reset_from(in.resets, in.num_resets, origin);
    load_projection(static_cast<const T*>(in.b) + origin * in.b_stride, in.b_stride, tokens,
                    in.states, tile.b);
    load_projection(static_cast<const T*>(in.c) + origin * in.c_stride, in.c_stride, tokens,
                    in.states, tile.c);
    float* partials = item.partials + (origin - item.chunk_begin * kScanTile) * 2 * padded;
    RowPrefetch early = next_rows<T>(item, chunk, 0, false);
    RowPrefetch late = early;
    for (int begin_strip = 0; begin_strip < strips; begin_strip += kStripsTogether) {
      const int num_strips =
          strips - begin_strip < kStripsTogether ? strips - begin_strip : kStripsTogether;
      if (begin_strip % kAhead<T> == 0) {
        early = next_rows<T>(item, chunk, begin_strip + kAhead<T>, false);
        late = next_rows<T>(item, chunk, begin_strip + kAhead<T>, true);
      }
      Strip<T> together[kStripsTogether];
      for (int i = 0; i < num_strips; ++i)
        together[i] = strip_at<T>(item, origin, tokens, begin_strip + i);
      prepare(item, together, num_strips);
      for (int s = begin_strip; s < begin_strip + num_strips; ++s) {
        rebuild_and_sweep(item, together[s - begin_strip], s, chunk, first_reset, partials, early,
                          late);
        prefetch_states(item, chunk, s + 1);
      }
      finish(item, together, num_strips);
    }
  }

  if (item.dinitial != nullptr && item.chunk_begin == 0) {
    for (int s = 0; s < strips; ++s) {
      F32* gradient = strip_sums(item.sums, s, padded).gradient;
      store_states(item.dinitial + s * kLanes * in.states, in.states, strip_count(in.channels, s),
                   in.states, gradient);
    }
  }
  stream_fence();
}

// Rows of db or dc from the sums of a chunk, in which blocks of states of dc and of db take turns.
template <typename T>
void store_projection(const float* sums, T* p, int64_t stride, int tokens, int states) {
  const int padded = padded_states(states);
  for (int t = 0; t < tokens; ++t, sums += 2 * padded, p += stride) {
    for (int n = 0; n < states; n += kLanes) {
      float lanes[kLanes] = {};
      for (int i = 0; i < kLanes && n + i < padded; i += kBlock) {
        for (int j = 0; j < kBlock; ++j) lanes[i + j] = sums[2 * (n + i) + j];
      }
      store_count(p + n, load(lanes), states - n < kLanes ? states - n : kLanes);
    }
  }
}

template <typename T>
void add_groups_of(const ScanGroupSums& in) {
  const int64_t vectors = int64_t{in.tokens} * 2 * padded_states(in.states) / kLanes;
  F32* sums = reinterpret_cast<F32*>(in.scratch);
  for (int64_t first = 0; first < in.groups; first += in.run) {
    const int64_t run = in.groups - first < in.run ? in.groups - first : in.run;
    const float* partials = in.partials + first * in.group_stride;
    for (int64_t i = 0; i < vectors; ++i, partials += kLanes) {
      F32 sum = load(partials);
      for (int64_t group = 1; group < run; ++group) {
        sum += load(partials + group * in.group_stride);
      }
      sums[i] = first == 0 ? sum : sums[i] + sum;
    }
  }
  store_projection(in.scratch, static_cast<T*>(in.dc), in.dc_stride, in.tokens, in.states);
  store_projection(in.scratch + kBlock, static_cast<T*>(in.db), in.db_stride, in.tokens, in.states);
}

}  // namespace

void selective_scan_add_groups(const ScanGroupSums& sums) {
  if (sums.bf16) {
    add_groups_of<uint16_t>(sums);
  } else {
    add_groups_of<float>(sums);
  }
}

int64_t selective_scan_backward_scratch(int channels, int states) {
  const int64_t padded = padded_states(states);
  const int64_t vectors = kStripsTogether * kTokenBuffers * kScanTile + 2 * kTapeEntries * kBlock +
                          padded + strips_of(channels) * padded;
  return vectors * kLanes + 4 * kScanTile * padded;
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
