// Tiles of tokens outside, strips inside: a strip walks along the tokens of the tile with the last
// W − 1 inputs in registers, while the rows of the next tile are asked for.

#include "kernels/cpu/isa/causal_conv.h"

#include "kernels/cpu/isa/row_prefetch.h"
#include "kernels/cpu/isa/strip.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

constexpr int64_t kTileTokens = 128;
constexpr int kMostStrips = kConvGroup / kLanes;

// Tokens [begin, end) of a tile that belong to one document, which ends at `document_end`. The
// document begins at `document`, or before the row (−1) when it continues a carried state.
struct Piece {
  int64_t begin, end;
  int64_t document, document_end;
};

template <typename Do>
void for_each_piece(const ConvBlock& in, int64_t tile_begin, int64_t tile_end, Do&& piece) {
  int64_t next = first_reset_from(in.resets, in.num_resets, tile_begin + 1);
  for (int64_t begin = tile_begin; begin < tile_end; ++next) {
    const int64_t document = next > 0 ? in.resets[next - 1] : -1;
    const int64_t document_end = next < in.num_resets ? in.resets[next] : in.row_length;
    const int64_t end = document_end < tile_end ? document_end : tile_end;
    piece(Piece{begin, end, document, document_end});
    begin = end;
  }
}

// The weights of a strip, as vectors over its channels.
template <int kWidth>
struct Weights {
  F32 tap[kWidth];
  F32 bias;
};

template <int kWidth>
Weights<kWidth> weights_of(const ConvBlock& in, int strip) {
  const int count = strip_count(in.channels, strip);
  Weights<kWidth> weights;
  for (int k = 0; k < kWidth; ++k) {
    float lanes[kLanes] = {};
    for (int i = 0; i < count; ++i)
      lanes[i] = in.weight[(strip * kLanes + i) * in.weight_stride + k];
    weights.tap[k] = load(lanes);
  }
  weights.bias = in.bias == nullptr ? F32{} : load_strip(in.bias + strip * kLanes, count);
  return weights;
}

// The inputs before a piece: of the same document, from the row or the state before it.
template <typename T, int kWidth>
void load_past(const ConvBlock& in, const Piece& piece, int strip, F32 (&past)[kWidth - 1]) {
  const int count = strip_count(in.channels, strip);
  for (int k = 0; k < kWidth - 1; ++k) {
    const int64_t t = piece.begin - (kWidth - 1) + k;
    F32 value = {};
    if (t >= 0 && t >= piece.document) {
      value = load_strip(static_cast<const T*>(in.x) + t * in.x_stride + strip * kLanes, count);
    } else if (t < 0 && piece.document < 0 && in.initial != nullptr) {
      value = load_strip(in.initial + (t + kWidth - 1) * in.initial_stride + strip * kLanes, count);
    }
    past[k] = value;
  }
}

// kCount tokens after kWidth − 1 earlier ones.
template <int kWidth, int kCount>
struct Window {
  F32 at[kWidth - 1 + kCount];

  void keep_last(F32 (&past)[kWidth - 1]) const {
#pragma GCC unroll 8
    for (int k = 0; k < kWidth - 1; ++k) past[k] = at[kCount + k];
  }
};

template <int kWidth, int kCount>
[[gnu::always_inline]] inline Window<kWidth, kCount> window_of(const F32 (&past)[kWidth - 1],
                                                               const Pack<kCount>& next) {
  Window<kWidth, kCount> window;
#pragma GCC unroll 8
  for (int k = 0; k < kWidth - 1; ++k) window.at[k] = past[k];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) window.at[kWidth - 1 + i] = next.at[i];
  return window;
}

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

// Prefetches rows of the tile at `begin`, if it is in the block.
template <typename T>
class TilePrefetch : public RowPrefetch {
 public:
  TilePrefetch(const ConvBlock& in, int64_t begin)
      : RowPrefetch(&in, in.channels * int64_t{sizeof(T)}, kLanes * int64_t{sizeof(T)}),
        begin_(begin),
        inside_(begin < in.end) {}
  void add(const void* p, int64_t stride) {
    if (!inside_) return;
    RowPrefetch::add(static_cast<const T*>(p) + begin_ * stride, stride * int64_t{sizeof(T)});
  }

 private:
  int64_t begin_;
  bool inside_;
};

// Calls tile(begin, end, strip, weights) for the tiles of a block and their strips.
template <int kWidth, typename Do>
void for_each_tile(const ConvBlock& in, Do&& tile) {
  Weights<kWidth> weights[kMostStrips];
  const int strips = strips_of(in.channels);
  for (int s = 0; s < strips; ++s) weights[s] = weights_of<kWidth>(in, s);
  for (int64_t begin = in.begin; begin < in.end; begin += kTileTokens) {
    tile(begin, begin + kTileTokens < in.end ? begin + kTileTokens : in.end, weights, strips);
  }
}

template <typename T, int kWidth>
void forward_of(const ConvForwardBlock& block) {
  const ConvBlock& in = block.in;
  for_each_tile<kWidth>(in, [&](int64_t tile_begin, int64_t tile_end,
                                const Weights<kWidth>* all_weights, int strips) {
    TilePrefetch<T> prefetch(in, tile_begin + kTileTokens);
    prefetch.add(in.x, in.x_stride);
    prefetch.add(block.y, block.y_stride);
    for (int s = 0; s < strips; ++s) {
      const Weights<kWidth> weights = all_weights[s];
      const int count = strip_count(in.channels, s);
      for_each_piece(in, tile_begin, tile_end, [&](const Piece& piece) {
        const T* x = static_cast<const T*>(in.x) + piece.begin * in.x_stride + s * kLanes;
        T* y = static_cast<T*>(block.y) + piece.begin * block.y_stride + s * kLanes;
        F32 past[kWidth - 1];
        load_past<T, kWidth>(in, piece, s, past);
        for_each_pack(static_cast<int>(piece.end - piece.begin), [&](auto pack, int t) {
          const auto window = window_of<kWidth>(past, load_rows(pack, x, in.x_stride, t, count));
          const auto before = apply(weights, window);
          store_rows(y, block.y_stride, t, count,
                     map([](F32 v, F32 gate) { return v * gate; }, before, sigmoid(before)));
          window.keep_last(past);
          prefetch.step(pack);
        });
      });
    }
  });
}

// One strip of a block. Where token t is done, the gradient of input t − (W − 1) is complete.
template <typename T, int kWidth>
class BackwardStrip {
 public:
  BackwardStrip(const ConvBackwardBlock& block, const Weights<kWidth>& weights, int strip,
                F32 (&sums)[kWidth + 1], TilePrefetch<T>& prefetch)
      : block_(block),
        in_(block.in),
        weights_(weights),
        strip_(strip),
        count_(strip_count(in_.channels, strip)),
        sums_(sums),
        prefetch_(prefetch) {}

  void run(const Piece& piece) {
    F32 past[kWidth - 1];
    F32 past_gradients[kWidth - 1] = {};
    load_past<T, kWidth>(in_, piece, strip_, past);
    // Rows below count from the piece's first token.
    const T* x = static_cast<const T*>(in_.x) + piece.begin * in_.x_stride + strip_ * kLanes;
    const T* dy =
        static_cast<const T*>(block_.dy) + piece.begin * block_.dy_stride + strip_ * kLanes;
    F32 dweight[kWidth];
    F32 dbias = sums_[kWidth];
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) dweight[k] = sums_[k];
    const auto gradients_of = [&](auto pack, int t, const auto& window) {
      const auto before = apply(weights_, window);
      return map([](F32 g, F32 v, F32 s) { return g * silu_slope(v, s); },
                 load_rows(pack, dy, block_.dy_stride, t, count_), before, sigmoid(before));
    };
    const int tokens = static_cast<int>(piece.end - piece.begin);
    for_each_pack(tokens, [&](auto pack, int t) {
      const auto window = window_of<kWidth>(past, load_rows(pack, x, in_.x_stride, t, count_));
      const auto gradients = gradients_of(pack, t, window);
      int i = 0;
      for (const F32 gradient : gradients.at) {
        dbias += gradient;
#pragma GCC unroll 8
        for (int k = 0; k < kWidth; ++k) {
          dweight[k] = multiply_add(window.at[i + k], gradient, dweight[k]);
        }
        ++i;
      }
      emit(piece, t, window_of<kWidth>(past_gradients, gradients), past_gradients);
      window.keep_last(past);
      prefetch_.step(pack);
    });
    // The last inputs of the piece also went into later tokens of the document, whose weight
    // gradients belong to the next piece; past the document's end there is nothing.
    for (int t = tokens; t < tokens + kWidth - 1; ++t) {
      Pack<1> gradient = {};
      if (piece.begin + t < piece.document_end) {
        const auto window =
            window_of<kWidth>(past, load_rows(gradient, x, in_.x_stride, t, count_));
        gradient = gradients_of(gradient, t, window);
        window.keep_last(past);
      }
      emit(piece, t, window_of<kWidth>(past_gradients, gradient), past_gradients);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) sums_[k] = dweight[k];
    sums_[kWidth] = dbias;
  }

 private:
  // The gradients of the inputs W − 1 before rows t, t + 1, ….
  template <int kCount>
  void emit(const Piece& piece, int t, const Window<kWidth, kCount>& gradients,
            F32 (&past_gradients)[kWidth - 1]) const {
    gradients.keep_last(past_gradients);
    Pack<kCount> dx = {};
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) {
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        dx.at[i] = multiply_add(weights_.tap[k], gradients.at[kWidth - 1 - k + i], dx.at[i]);
      }
    }
    const int64_t first = piece.begin + t - (kWidth - 1);
    if (first >= piece.begin && first + kCount <= in_.row_length - (kWidth - 1)) {
      store_rows(static_cast<T*>(block_.dx) + first * block_.dx_stride + strip_ * kLanes,
                 block_.dx_stride, 0, count_, dx);
      return;
    }
    for (int i = 0; i < kCount; ++i) emit_row(piece, first + i, dx.at[i]);
  }

  // dx of token j; a negative j is an input before a carried row. Inputs kept in the final state
  // have a gradient from there too.
  void emit_row(const Piece& piece, int64_t j, F32 dx) const {
    const bool carried = j < 0 && piece.begin == 0 && piece.document < 0;
    if (j < piece.begin && !carried) return;
    const int64_t kept = j - in_.row_length + kWidth - 1;
    if (kept >= 0 && block_.dfinal != nullptr && piece.document_end == in_.row_length) {
      dx += load_strip(block_.dfinal + kept * in_.initial_stride + strip_ * kLanes, count_);
    }
    if (j >= 0) {
      store_strip(static_cast<T*>(block_.dx) + j * block_.dx_stride + strip_ * kLanes, dx, count_);
    } else if (block_.dinitial != nullptr) {
      store_strip(block_.dinitial + (j + kWidth - 1) * in_.initial_stride + strip_ * kLanes, dx,
                  count_);
    }
  }

  const ConvBackwardBlock& block_;
  const ConvBlock& in_;
  const Weights<kWidth>& weights_;
  int strip_;
  int count_;
  F32 (&sums_)[kWidth + 1];  // of dweight, then dbias
  TilePrefetch<T>& prefetch_;
};

template <typename T, int kWidth>
void backward_of(const ConvBackwardBlock& block) {
  const ConvBlock& in = block.in;
  F32 sums[kMostStrips][kWidth + 1] = {};
  for_each_tile<kWidth>(
      in, [&](int64_t tile_begin, int64_t tile_end, const Weights<kWidth>* weights, int strips) {
        TilePrefetch<T> prefetch(in, tile_begin + kTileTokens);
        prefetch.add(in.x, in.x_stride);
        prefetch.add(block.dy, block.dy_stride);
        prefetch.add(block.dx, block.dx_stride);
        for (int s = 0; s < strips; ++s) {
          BackwardStrip<T, kWidth> strip(block, weights[s], s, sums[s], prefetch);
          for_each_piece(in, tile_begin, tile_end, [&](const Piece& piece) { strip.run(piece); });
        }
      });
  for (int s = 0; s < strips_of(in.channels); ++s) {
    for (int k = 0; k <= kWidth; ++k) {
      store_strip(block.partial + k * block.partial_stride + s * kLanes, sums[s][k],
                  strip_count(in.channels, s));
    }
  }
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
