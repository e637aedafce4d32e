// A tile of tokens at a time, and a strip of channels after the other down its tokens: taps, the
// last inputs and sums stay in registers, while rows come and go in long pieces. A tile is done in
// loops whose chains of operations are short enough for the processor to look past them.

#include "kernels/cpu/isa/causal_conv.h"

#include "kernels/cpu/isa/row_prefetch.h"
#include "kernels/cpu/isa/strip.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// A strip is two vectors. Of bf16 they hold the even and the odd channels, as these lie in the
// halves of 32-bit lanes: no lane moves until the results are stored.
constexpr int kStrip = 2 * kLanes;
constexpr int kMostStrips = kConvGroup / kStrip;
template <typename T>
constexpr int kTile = 64 / sizeof(T);  // tokens; the next ones are asked for meanwhile

// Of dp and the weights, whose product is free of it: t = −log2 e · pre makes 2^t = e^−pre.
constexpr float kScale = -kLog2E;

// Tokens [begin, end) of a block that belong to one document, which ends at `document_end`. The
// document begins at `document`, or before the row (−1) when it continues a carried state.
struct Piece {
  int64_t begin, end;
  int64_t document, document_end;
};

template <typename Do>
void for_each_piece(const ConvBlock& in, Do&& piece) {
  int64_t next = first_reset_from(in.resets, in.num_resets, in.begin + 1);
  for (int64_t begin = in.begin; begin < in.end; ++next) {
    const int64_t document = next > 0 ? in.resets[next - 1] : -1;
    const int64_t document_end = next < in.num_resets ? in.resets[next] : in.row_length;
    const int64_t end = document_end < in.end ? document_end : in.end;
    piece(Piece{begin, end, document, document_end});
    begin = end;
  }
}

// Calls tile(begin, end) for the tiles of a piece.
template <typename T, typename Do>
[[gnu::always_inline]] inline void for_each_tile(const Piece& piece, Do&& tile) {
  for (int64_t begin = piece.begin; begin < piece.end; begin += kTile<T>) {
    tile(begin, begin + kTile<T> < piece.end ? begin + kTile<T> : piece.end);
  }
}

// Calls of(strip, channels of the strip) for the strips of a group, of whole ones with a constant.
template <typename Of>
[[gnu::always_inline]] inline void for_each_strip(int channels, Of&& of) {
  const int whole = channels / kStrip;
  for (int s = 0; s < whole; ++s) of(s, std::integral_constant<int, kStrip>{});
  if (whole * kStrip < channels) of(whole, channels - whole * kStrip);
}

// Calls of(std::integral_constant) for the two vectors of a strip.
template <typename Of>
[[gnu::always_inline]] inline void for_each_half(Of&& of) {
  of(std::integral_constant<int, 0>{});
  of(std::integral_constant<int, 1>{});
}

template <int kHalf>
[[gnu::always_inline]] inline F32 load_half(const uint16_t* p) {
  const U32 pairs = reinterpret_cast<U32>(load_pairs(p));
  return reinterpret_cast<F32>(kHalf == 0 ? pairs << 16 : pairs & 0xffff0000U);
}
template <int kHalf>
[[gnu::always_inline]] inline F32 load_half(const float* p) {
  return load(p + kHalf * kLanes);
}

// The channels past `count` read as zero.
template <int kHalf, typename T>
[[gnu::noinline]] F32 load_half_of_partial(const T* p, int count) {
  T buffer[kStrip] = {};
  for (int i = 0; i < count; ++i) buffer[i] = p[i];
  return load_half<kHalf>(buffer);
}
template <int kHalf, typename T>
[[gnu::always_inline]] inline F32 load_half(const T* p, int count) {
  return count == kStrip ? load_half<kHalf>(p) : load_half_of_partial<kHalf>(p, count);
}

// The channel in a lane of a strip of T.
template <typename T>
int channel_of(int half, int lane) {
  return sizeof(T) == 2 ? 2 * lane + half : half * kLanes + lane;
}

// f32 values of the channels of a strip of T, `stride` apart.
template <typename T, int kHalf>
[[gnu::noinline]] F32 gather(const float* p, int64_t stride, int count) {
  float lanes[kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    const int channel = channel_of<T>(kHalf, lane);
    if (channel < count) lanes[lane] = p[channel * stride];
  }
  return load(lanes);
}
template <typename T, int kHalf>
[[gnu::noinline]] void scatter(float* p, F32 value, int count) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int channel = channel_of<T>(kHalf, lane);
    if (channel < count) p[channel] = value[lane];
  }
}

// The even and the odd channels of a strip of bf16.
[[gnu::always_inline]] inline void store_strip_of_bf16(uint16_t* p, F32 even, F32 odd,
                                                       [[maybe_unused]] bool streams) {
#if defined(__AVX512BF16__)
  const __m512i both = reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(odd), reinterpret_cast<__m512>(even)));
  const __m512i ordered = interleave_halves(both);
  if (streams && reinterpret_cast<uintptr_t>(p) % 64 == 0) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), ordered);
  } else {
    _mm512_storeu_si512(p, ordered);
  }
#else
  const U32 both = rounded_bf16(even) | (rounded_bf16(odd) << 16);
  __builtin_memcpy(p, &both, sizeof both);
#endif
}

// Stores vector kHalf of a strip: of bf16 both at once with the second, until when the first is
// `kept`.
template <int kHalf, typename T>
[[gnu::always_inline]] inline void store_half(T* p, F32 value, F32& kept, int count, bool streams) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (count == kStrip) {
      streams ? stream(p + kHalf * kLanes, value) : store(p + kHalf * kLanes, value);
    } else {
      scatter<T, kHalf>(p, value, count);
    }
  } else if constexpr (kHalf == 0) {
    kept = value;
  } else if (count == kStrip) {
    store_strip_of_bf16(p, kept, value, streams);
  } else {
    T buffer[kStrip];
    store_strip_of_bf16(buffer, kept, value, false);
    for (int i = 0; i < count; ++i) p[i] = buffer[i];
  }
}

// Of one vector, times a scale.
template <int kWidth>
struct Weights {
  F32 tap[kWidth];
  F32 bias;
};

template <typename T, int kWidth>
struct GroupWeights {
  Weights<kWidth> of[kMostStrips][2];

  GroupWeights(const ConvBlock& in, float scale) {
    for_each_strip(in.channels, [&](int s, int count) {
      const int channel = s * kStrip;
      for_each_half([&](auto half) {
        constexpr int kHalf = decltype(half)::value;
        Weights<kWidth>& weights = of[s][kHalf];
        for (int k = 0; k < kWidth; ++k) {
          weights.tap[k] = scale * gather<T, kHalf>(in.weight + channel * in.weight_stride + k,
                                                    in.weight_stride, count);
        }
        weights.bias =
            in.bias == nullptr ? F32{} : scale * gather<T, kHalf>(in.bias + channel, 1, count);
      });
    });
  }
};

// The inputs t − (W − 1) to t − 1 of a strip. Those before the document are zero or from the
// carried state.
template <typename T, int kHalf, int kWidth>
[[gnu::always_inline]] inline void load_inputs_before(const ConvBlock& in, const Piece& piece,
                                                      int64_t t, int strip, int count,
                                                      F32 (&inputs)[kWidth - 1]) {
  const T* x = static_cast<const T*>(in.x) + strip * kStrip;
#pragma GCC unroll 8
  for (int i = 0; i < kWidth - 1; ++i) {
    const int64_t token = t - (kWidth - 1) + i;
    if (token >= 0 && token >= piece.document) {
      inputs[i] = load_half<kHalf>(x + token * in.x_stride, count);
    } else if (token < 0 && piece.document < 0 && in.initial != nullptr) {
      inputs[i] = gather<T, kHalf>(
          in.initial + (token + kWidth - 1) * in.initial_stride + strip * kStrip, 1, count);
    } else {
      inputs[i] = F32{};
    }
  }
}

// A pack with the W − 1 vectors before it.
template <int kWidth, int kCount>
struct Window {
  F32 at[kWidth - 1 + kCount];

  [[gnu::always_inline]] Window(const F32 (&before)[kWidth - 1], const Pack<kCount>& pack) {
#pragma GCC unroll 8
    for (int i = 0; i < kWidth - 1; ++i) at[i] = before[i];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) at[kWidth - 1 + i] = pack.at[i];
  }
  [[gnu::always_inline]] void keep_last(F32 (&before)[kWidth - 1]) const {
#pragma GCC unroll 8
    for (int i = 0; i < kWidth - 1; ++i) before[i] = at[kCount + i];
  }
};

template <int kHalf, typename T, int kCount>
[[gnu::always_inline]] inline Pack<kCount> load_tokens(const Pack<kCount>&, const T* p,
                                                       int64_t stride, int count) {
  Pack<kCount> tokens;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) tokens.at[i] = load_half<kHalf>(p + i * stride, count);
  return tokens;
}

// The first tile cannot be asked for in time: all at once, then, rather than line by line.
template <typename T>
void prefetch_first_tile(const ConvBlock& in, const void* rows, int64_t stride) {
  for (int64_t t = in.begin; t < in.begin + kTile<T> && t < in.end; ++t) {
    const char* row = reinterpret_cast<const char*>(static_cast<const T*>(rows) + t * stride);
    const auto bytes = static_cast<int64_t>(in.channels * sizeof(T));
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
  }
}

// Rows of the block's next tile, which begins at token `next`: a vector at a step.
template <typename T>
class NextTile {
 public:
  NextTile(const ConvBlock& in, int64_t next)
      : first_(next < in.end ? next : -1),
        prefetch_(in.x, in.channels * kSize, kLanes * int64_t{sizeof(float)}) {}

  void add(const void* rows, int64_t stride) {
    if (first_ < 0) return;
    prefetch_.add(static_cast<const T*>(rows) + first_ * stride, stride * kSize);
  }
  // For every token of a pack, when working on vector kHalf of a strip.
  template <int kHalf, int kCount>
  [[gnu::always_inline]] void step(const Pack<kCount>& pack) {
    if constexpr (kHalf == 0 || sizeof(T) == sizeof(float)) prefetch_.step(pack);
  }

 private:
  static constexpr int64_t kSize = sizeof(T);

  int64_t first_;
  RowPrefetch prefetch_;
};

template <typename Tokens>
inline constexpr int kCountOf = sizeof(Tokens) / sizeof(F32);

// Calls of(Pack size, t) for the tokens [0, tokens), of partial strips one by one.
template <typename Count, typename Of>
[[gnu::always_inline]] inline void for_each_token(Count, int tokens, Of&& of) {
  int t = 0;
  if constexpr (!std::is_same_v<Count, int>) {
    for (; t + kTogether <= tokens; t += kTogether) of(Pack<kTogether>{}, t);
  }
  for (; t < tokens; ++t) of(Pack<1>{}, t);
}

// bias + Σ tap[k]·x[t − (W − 1) + k], times kScale.
template <int kWidth, int kCount>
[[gnu::always_inline]] inline Pack<kCount> apply(const Weights<kWidth>& weights,
                                                 const Window<kWidth, kCount>& x) {
  Pack<kCount> sum;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) sum.at[i] = weights.bias;
#pragma GCC unroll 8
  for (int k = 0; k < kWidth; ++k) {
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      sum.at[i] = multiply_add(weights.tap[k], x.at[k + i], sum.at[i]);
    }
  }
  return sum;
}

// The sums above for the tokens from `begin` of a strip.
template <typename T, int kHalf, int kWidth, typename Count>
[[gnu::always_inline]] inline void convolve(const ConvBlock& in, const Piece& piece, int64_t begin,
                                            int tokens, int s, Count count,
                                            const Weights<kWidth>& weights, F32* pre) {
  const int64_t x_stride = in.x_stride;
  const T* x = static_cast<const T*>(in.x) + begin * x_stride + s * kStrip;
  F32 before[kWidth - 1];
  load_inputs_before<T, kHalf, kWidth>(in, piece, begin, s, count, before);
  for_each_token(
      count, tokens, [&](auto pack, int t) __attribute__((always_inline)) {
        constexpr int kCount = kCountOf<decltype(pack)>;
        const Window<kWidth, kCount> inputs(before, load_tokens<kHalf>(pack, x, x_stride, count));
        inputs.keep_last(before);
        store_rows(pre, t, apply(weights, inputs));
        x += kCount * x_stride;
      });
}

#if defined(__AVX512F__)
// kPowers times kScale.
inline constexpr Powers kScaledPowers = [] {
  Powers powers = {};
  for (int j = 0; j < 32; ++j) powers.at[j] = kScale * kPowers.at[j];
  return powers;
}();
#endif

// σ(v)/kScale = 1/(kScale · (1 + 2^t)), where t = kScale·v. If kRough to 1e-4, which the rounding
// of bf16 results hides.
template <bool kRough, int kCount>
[[gnu::always_inline]] inline Pack<kCount> scaled_sigmoid(const Pack<kCount>& t) {
#if defined(__AVX512F__)
  const Exp2 power;  // 2^t = 2^whole · table[…] · ((rest + centre)² + height)
  const Pack<kCount> shifted = map([&](F32 v) { return v + power.magic(); }, t);
  const Pack<kCount> whole = map([&](F32 v) { return subtract(v, power.magic()); }, shifted);
  const Pack<kCount> rest =
      map([&](F32 v, F32 w) { return subtract(v, subtract(w, power.centre())); }, t, whole);
  const Pack<kCount> parabola =
      map([](F32 r) { return multiply_add(r, r, broadcast(2.08130789F)); }, rest);
  const __m512 low = _mm512_load_ps(kScaledPowers.at);
  const __m512 high = _mm512_load_ps(kScaledPowers.at + 16);
  const Pack<kCount> scaled = map(
      [&](F32 s, F32 w) {
        const __m512 entry = _mm512_permutex2var_ps(low, reinterpret_cast<__m512i>(s), high);
        return reinterpret_cast<F32>(_mm512_scalef_ps(entry, reinterpret_cast<__m512>(w)));
      },
      shifted, whole);
  const Pack<kCount> sum =
      map([](F32 s, F32 p) { return multiply_add(s, p, broadcast(kScale)); }, scaled, parabola);
  if constexpr (kRough) {
    return map(
        [](F32 v) { return reinterpret_cast<F32>(_mm512_rcp14_ps(reinterpret_cast<__m512>(v))); },
        sum);
  }
  return map([](F32 v) { return 1.0F / v; }, sum);
#else
  return map([](F32 v) { return -kLn2 / (1.0F + exp2(v)); }, t);
#endif
}

template <typename T, int kWidth>
class ForwardBlock {
 public:
  explicit ForwardBlock(const ConvForwardBlock& block)
      : block_(block), in_(block.in), weights_(block.in, kIsRough ? kScale : 1.0F) {}

  void run() {
    prefetch_first_tile<T>(in_, in_.x, in_.x_stride);
    for_each_piece(in_, [&](const Piece& piece) {
      for_each_tile<T>(piece, [&](int64_t begin, int64_t end) {
        NextTile<T> next(in_, end);
        next.add(in_.x, in_.x_stride);
        for_each_strip(in_.channels, [&](int s, auto count) {
          for_each_half([&](auto half) {
            tile<decltype(half)::value>(piece, begin, static_cast<int>(end - begin), s, count,
                                        next);
          });
        });
      });
    });
    if (block_.streams) stream_fence();
  }

 private:
  // The rounding of bf16 results hides that of scaled weights, and 1e-4 in σ.
  static constexpr bool kIsRough = sizeof(T) == 2;
  template <int kHalf, typename Count>
  [[gnu::always_inline]] void tile(const Piece& piece, int64_t begin, int tokens, int s,
                                   Count count, NextTile<T>& next) {
    const Weights<kWidth> weights = weights_.of[s][kHalf];
    convolve<T, kHalf>(in_, piece, begin, tokens, s, count, weights, pre_);
    const int64_t y_stride = block_.y_stride;
    const bool streams = block_.streams;
    T* y = static_cast<T*>(block_.y) + begin * y_stride + s * kStrip;
    for_each_token(
        count, tokens, [&](auto pack, int t) __attribute__((always_inline)) {
          constexpr int kCount = kCountOf<decltype(pack)>;
          next.template step<kHalf>(pack);
          const auto sums = load_rows(pack, pre_, t);
          const auto sigmoids = [&] {
            if constexpr (kIsRough) {
              return scaled_sigmoid<true>(sums);
            } else {
              return sigmoid(sums);
            }
          }();
          const auto result = map([](F32 v, F32 gate) { return v * gate; }, sums, sigmoids);
#pragma GCC unroll 8
          for (int i = 0; i < kCount; ++i) {
            store_half<kHalf>(y + i * y_stride, result.at[i], kept_[t + i], count, streams);
          }
          y += kCount * y_stride;
        });
  }

  const ConvForwardBlock& block_;
  const ConvBlock& in_;
  GroupWeights<T, kWidth> weights_;
  F32 pre_[kTile<T>] = {};
  F32 kept_[kTile<T>] = {};
};

// A block of tokens. dp is the gradient of pre over kScale, so that times the scaled weights it
// makes dx; where that of token t is known, the gradient of input t − (W − 1) is complete.
template <typename T, int kWidth>
class BackwardBlock {
 public:
  explicit BackwardBlock(const ConvBackwardBlock& block)
      : block_(block), in_(block.in), weights_(block.in, kScale) {}

  void run() {
    prefetch_first_tile<T>(in_, in_.x, in_.x_stride);
    prefetch_first_tile<T>(in_, block_.dy, block_.dy_stride);
    for_each_piece(in_, [&](const Piece& piece) {
      for (auto& strip : past_) {
        for (auto& half : strip) {
          for (F32& gradient : half) gradient = F32{};
        }
      }
      for_each_tile<T>(piece, [&](int64_t begin, int64_t end) {
        NextTile<T> next(in_, end);
        next.add(in_.x, in_.x_stride);
        next.add(block_.dy, block_.dy_stride);
        for_each_strip(in_.channels, [&](int s, auto count) {
          for_each_half([&](auto half) {
            constexpr int kHalf = decltype(half)::value;
            const int tokens = static_cast<int>(end - begin);
            differentiate<kHalf>(piece, begin, tokens, s, count, next);
            spread<kHalf, true>(piece, begin, tokens, s, count);
          });
        });
      });
      // The last inputs of the piece also went into later tokens of the document, whose weight
      // gradients belong to the next block; past the document's end there is nothing.
      const int64_t left = piece.document_end - piece.end;
      const int known = left < kWidth - 1 ? static_cast<int>(left) : kWidth - 1;
      NextTile<T> none(in_, in_.end);
      for_each_strip(in_.channels, [&](int s, int count) {
        for_each_half([&](auto half) {
          constexpr int kHalf = decltype(half)::value;
          differentiate<kHalf>(piece, piece.end, known, s, count, none);
          for (int i = known; i < kWidth - 1; ++i) dp_[kWidth - 1 + i] = F32{};
          spread<kHalf, false>(piece, piece.end, kWidth - 1, s, count);
        });
      });
    });
    for_each_strip(in_.channels, [&](int s, int count) {
      for_each_half([&](auto half) {
        constexpr int kHalf = decltype(half)::value;
        for (int k = 0; k <= kWidth; ++k) {
          scatter<T, kHalf>(block_.partial + k * block_.partial_stride + s * kStrip,
                            kScale * sums_[s][kHalf][k], count);
        }
      });
    });
    if (block_.streams) stream_fence();
  }

 private:
  // dp of the tokens from `begin`.
  template <int kHalf, typename Count>
  [[gnu::always_inline]] void differentiate(const Piece& piece, int64_t begin, int tokens, int s,
                                            Count count, NextTile<T>& next) {
    convolve<T, kHalf>(in_, piece, begin, tokens, s, count, weights_.of[s][kHalf], pre_);
    const int64_t dy_stride = block_.dy_stride;
    const T* dy = static_cast<const T*>(block_.dy) + begin * dy_stride + s * kStrip;
    for_each_token(
        count, tokens, [&](auto pack, int t) __attribute__((always_inline)) {
          constexpr int kCount = kCountOf<decltype(pack)>;
          next.template step<kHalf>(pack);
          const auto scaled = load_rows(pack, pre_, t);
          // silu'(v)/kScale = σ/kScale · (1 + v·(1 − σ))
          const auto gradients = map(
              [](F32 g, F32 v, F32 sigmoid) {
                return g * (sigmoid * multiply_add(v, -kLn2 - sigmoid, broadcast(1.0F)));
              },
              load_tokens<kHalf>(pack, dy, dy_stride, count), scaled,
              scaled_sigmoid<false>(scaled));
          store_rows(dp_, kWidth - 1 + t, gradients);
          dy += kCount * dy_stride;
        });
  }

  // From dp of the tokens from `begin` the gradients of the inputs W − 1 before them and, if kSums,
  // those of the weights.
  template <int kHalf, bool kSums, typename Count>
  [[gnu::always_inline]] void spread(const Piece& piece, int64_t begin, int tokens, int s,
                                     Count count) {
    const Weights<kWidth> weights = weights_.of[s][kHalf];
    const int64_t x_stride = in_.x_stride;
    const int64_t dx_stride = block_.dx_stride;
    const bool streams = block_.streams;
    const T* x = static_cast<const T*>(in_.x) + begin * x_stride + s * kStrip;
    F32 before[kWidth - 1] = {};
    if constexpr (kSums) {
      load_inputs_before<T, kHalf, kWidth>(in_, piece, begin, s, count, before);
    }
    F32 sums[kWidth + 1];
#pragma GCC unroll 16
    for (int k = 0; k <= kWidth; ++k) sums[k] = sums_[s][kHalf][k];
#pragma GCC unroll 8
    for (int k = 0; k < kWidth - 1; ++k) dp_[k] = past_[s][kHalf][k];
    for_each_token(
        count, tokens, [&](auto pack, int t) __attribute__((always_inline)) {
          constexpr int kCount = kCountOf<decltype(pack)>;
          if constexpr (kSums) {
            const Window<kWidth, kCount> inputs(before,
                                                load_tokens<kHalf>(pack, x, x_stride, count));
            inputs.keep_last(before);
#pragma GCC unroll 8
            for (int i = 0; i < kCount; ++i) {
              const F32 gradient = dp_[kWidth - 1 + t + i];
#pragma GCC unroll 8
              for (int k = 0; k < kWidth; ++k) {
                sums[k] = multiply_add(inputs.at[i + k], gradient, sums[k]);
              }
              sums[kWidth] += gradient;
            }
            x += kCount * x_stride;
          }
          Pack<kCount> dx = {};
#pragma GCC unroll 8
          for (int k = 0; k < kWidth; ++k) {
#pragma GCC unroll 8
            for (int i = 0; i < kCount; ++i) {
              dx.at[i] = multiply_add(weights.tap[k], dp_[kWidth - 1 - k + t + i], dx.at[i]);
            }
          }
          const int64_t first = begin + t - (kWidth - 1);
          if (first >= piece.begin && first + kCount <= in_.row_length - (kWidth - 1)) {
            T* row = static_cast<T*>(block_.dx) + first * dx_stride + s * kStrip;
#pragma GCC unroll 8
            for (int i = 0; i < kCount; ++i) {
              store_half<kHalf>(row + i * dx_stride, dx.at[i], kept_[t + i], count, streams);
            }
          } else {
            for (int i = 0; i < kCount; ++i) {
              emit_row<kHalf>(piece, first + i, s, count, dx.at[i], kept_[t + i]);
            }
          }
        });
#pragma GCC unroll 8
    for (int k = 0; k < kWidth - 1; ++k) past_[s][kHalf][k] = dp_[tokens + k];
#pragma GCC unroll 16
    for (int k = 0; k <= kWidth; ++k) sums_[s][kHalf][k] = sums[k];
  }

  // dx of token j; a negative j is an input before a carried row. Inputs kept in the final state
  // have a gradient from there too.
  template <int kHalf>
  [[gnu::noinline]] void emit_row(const Piece& piece, int64_t j, int s, int count, F32 dx,
                                  F32& kept) const {
    const bool carried = j < 0 && piece.begin == 0 && piece.document < 0;
    if (j < piece.begin && !carried) return;
    const int channel = s * kStrip;
    const int64_t place = j - in_.row_length + kWidth - 1;
    if (place >= 0 && block_.dfinal != nullptr && piece.document_end == in_.row_length) {
      dx += gather<T, kHalf>(block_.dfinal + place * in_.initial_stride + channel, 1, count);
    }
    if (j >= 0) {
      store_half<kHalf>(static_cast<T*>(block_.dx) + j * block_.dx_stride + channel, dx, kept,
                        count, false);
    } else if (block_.dinitial != nullptr) {
      scatter<T, kHalf>(block_.dinitial + (j + kWidth - 1) * in_.initial_stride + channel, dx,
                        count);
    }
  }

  const ConvBackwardBlock& block_;
  const ConvBlock& in_;
  GroupWeights<T, kWidth> weights_;
  F32 past_[kMostStrips][2][kWidth - 1] = {};  // dp of the last tokens
  F32 sums_[kMostStrips][2][kWidth + 1] = {};  // of dweight, then dbias
  F32 pre_[kTile<T>] = {};
  F32 dp_[kWidth - 1 + kTile<T>] = {};  // of a tile and the tokens before it
  F32 kept_[kTile<T>] = {};
};

template <typename T, int kWidth>
void forward_of(const ConvForwardBlock& block) {
  ForwardBlock<T, kWidth>(block).run();
}

template <typename T, int kWidth>
void backward_of(const ConvBackwardBlock& block) {
  BackwardBlock<T, kWidth>(block).run();
}

template <typename T>
void forward_in(const ConvForwardBlock& block) {
  switch (block.in.width) {
    case 2: return forward_of<T, 2>(block);
    case 3: return forward_of<T, 3>(block);
    case 4: return forward_of<T, 4>(block);
    case 5: return forward_of<T, 5>(block);
    case 6: return forward_of<T, 6>(block);
    case 7: return forward_of<T, 7>(block);
    default: return forward_of<T, 8>(block);
  }
}

template <typename T>
void backward_in(const ConvBackwardBlock& block) {
  switch (block.in.width) {
    case 2: return backward_of<T, 2>(block);
    case 3: return backward_of<T, 3>(block);
    case 4: return backward_of<T, 4>(block);
    case 5: return backward_of<T, 5>(block);
    case 6: return backward_of<T, 6>(block);
    case 7: return backward_of<T, 7>(block);
    default: return backward_of<T, 8>(block);
  }
}

void forward(const ConvForwardBlock& block) {
  return block.in.bf16 ? forward_in<uint16_t>(block) : forward_in<float>(block);
}

void backward(const ConvBackwardBlock& block) {
  return block.in.bf16 ? backward_in<uint16_t>(block) : backward_in<float>(block);
}

}  // namespace

extern const ConvLoops causal_conv_loops = {forward, backward};

}  // namespace sidewinder::SIDEWINDER_ISA
