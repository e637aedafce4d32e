// A few tokens at a time, all strips of the group before the next tokens: rows are read and written
// in their order, and the W − 1 rows before them are still in the first-level cache.

#include "kernels/cpu/isa/causal_conv.h"

#include "kernels/cpu/isa/strip.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

constexpr int kMostStrips = kConvGroup / kLanes;

// Tokens [begin, end) of a block that belong to one document, which ends at `document_end`. The
// document begins at `document`, or before the row (−1) when it continues a carried state.
struct Piece {
  int64_t begin, end;
  int64_t document, document_end;

  // Whether the W − 1 inputs before token t are rows of x.
  bool has_rows_before(int64_t t, int width) const {
    return t - (width - 1) >= (document < 0 ? 0 : document);
  }
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

// Calls of(strip, count) for the strips of a group, of whole ones with a constant count.
template <typename Of>
[[gnu::always_inline]] inline void for_each_strip(int channels, Of&& of) {
  const int whole = channels / kLanes;
  for (int s = 0; s < whole; ++s) of(s, std::integral_constant<int, kLanes>{});
  if (whole * kLanes < channels) of(whole, channels - whole * kLanes);
}

// Calls of(Pack size, t, whether the rows before t are there) for the tokens of a piece.
template <int kWidth, typename Of>
[[gnu::always_inline]] inline void for_each_tokens(const Piece& piece, Of&& of) {
  for (int64_t t = piece.begin; t < piece.end;) {
    if (!piece.has_rows_before(t, kWidth)) {
      of(Pack<1>{}, t++, std::false_type{});
    } else if (t + kTogether <= piece.end) {
      of(Pack<kTogether>{}, t, std::true_type{});
      t += kTogether;
    } else {
      of(Pack<1>{}, t++, std::true_type{});
    }
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

template <int kWidth>
struct GroupWeights {
  Weights<kWidth> of[kMostStrips];

  explicit GroupWeights(const ConvBlock& in) {
    for (int s = 0; s < strips_of(in.channels); ++s) of[s] = weights_of<kWidth>(in, s);
  }
};

// kCount tokens and the kWidth − 1 before them.
template <int kWidth, int kCount>
struct Window {
  F32 at[kWidth - 1 + kCount];
};

// Inputs t − (W − 1) to t + kCount − 1 of a strip. Those before the document are zero or from the
// carried state.
template <typename T, int kWidth, bool kRowsBefore, int kCount, typename Count>
[[gnu::always_inline]] inline Window<kWidth, kCount> inputs_at(const ConvBlock& in,
                                                               const Piece& piece, int64_t t,
                                                               int strip, const Pack<kCount>&,
                                                               Count count) {
  Window<kWidth, kCount> window;
  const T* x = static_cast<const T*>(in.x) + strip * kLanes;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth - 1 + kCount; ++i) {
    const int64_t token = t - (kWidth - 1) + i;
    if (kRowsBefore || (token >= 0 && token >= piece.document)) {
      window.at[i] = load_strip(x + token * in.x_stride, count);
    } else if (token < 0 && piece.document < 0 && in.initial != nullptr) {
      window.at[i] =
          load_strip(in.initial + (token + kWidth - 1) * in.initial_stride + strip * kLanes, count);
    } else {
      window.at[i] = F32{};
    }
  }
  return window;
}

// Asks for the next rows of a strip, to be read or to be overwritten. Addresses behind the last row
// do no harm.
template <bool kToWrite, typename T, int kCount>
[[gnu::always_inline]] inline void prefetch_rows(const Pack<kCount>&, const T* row,
                                                 int64_t stride) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    __builtin_prefetch(
        reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(row) +
                                      static_cast<uintptr_t>((kTogether + i) * stride) * sizeof(T)),
        kToWrite);
  }
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

// σ(x), for bf16 results to 1e-4, which their rounding hides.
template <typename T, int kCount>
[[gnu::always_inline]] inline Pack<kCount> gate(const Pack<kCount>& x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2) {
    const Exp2 power;
    return map(
        [&](F32 v) {
          const F32 sum = 1.0F + power.power(v, broadcast(-kLog2E));
          return reinterpret_cast<F32>(_mm512_rcp14_ps(reinterpret_cast<__m512>(sum)));
        },
        x);
  }
#endif
  return sigmoid(x);
}

template <typename T, int kWidth>
void forward_of(const ConvForwardBlock& block) {
  const ConvBlock& in = block.in;
  const GroupWeights<kWidth> weights(in);
  for_each_piece(in, [&](const Piece& piece) {
    for_each_tokens<kWidth>(piece, [&](auto pack, int64_t t, auto rows_before) {
      const T* x = static_cast<const T*>(in.x) + t * in.x_stride;
      T* y = static_cast<T*>(block.y) + t * block.y_stride;
      for_each_strip(in.channels, [&](int s, auto count) {
        const int channel = s * kLanes;
        prefetch_rows<false>(pack, x + channel, in.x_stride);
        prefetch_rows<true>(pack, y + channel, block.y_stride);
        const auto before = apply(weights.of[s], inputs_at<T, kWidth, decltype(rows_before)::value>(
                                                     in, piece, t, s, pack, count));
        store_rows(y + channel, block.y_stride, 0, count,
                   map([](F32 v, F32 gate) { return v * gate; }, before, gate<T>(before)));
      });
    });
  });
}

// A block of tokens. Where token t is done, the gradient of input t − (W − 1) is complete.
template <typename T, int kWidth>
class BackwardBlock {
 public:
  explicit BackwardBlock(const ConvBackwardBlock& block)
      : block_(block), in_(block.in), weights_(block.in) {}

  void run() {
    for_each_piece(in_, [&](const Piece& piece) {
      for (auto& strip : past_) {
        for (F32& gradient : strip) gradient = F32{};
      }
      for_each_tokens<kWidth>(piece, [&](auto pack, int64_t t, auto rows_before) {
        advance<decltype(rows_before)::value, true>(piece, pack, t);
      });
      // The last inputs of the piece also went into later tokens of the document, whose weight
      // gradients belong to the next block; past the document's end there is nothing.
      for (int64_t t = piece.end; t < piece.end + kWidth - 1; ++t) {
        if (t < piece.document_end) {
          advance<false, false>(piece, Pack<1>{}, t);
        } else {
          for_each_strip(in_.channels,
                         [&](int s, auto count) { emit(piece, t, s, count, Pack<1>{}); });
        }
      }
    });
    for_each_strip(in_.channels, [&](int s, auto count) {
      for (int k = 0; k <= kWidth; ++k) {
        store_strip(block_.partial + k * block_.partial_stride + s * kLanes, sums_[s][k], count);
      }
    });
  }

 private:
  // Tokens t, t + 1, … of all strips.
  template <bool kRowsBefore, bool kSums, int kCount>
  [[gnu::always_inline]] void advance(const Piece& piece, const Pack<kCount>& pack, int64_t t) {
    const T* x = static_cast<const T*>(in_.x) + t * in_.x_stride;
    const T* dy = static_cast<const T*>(block_.dy) + t * block_.dy_stride;
    const T* dx = static_cast<const T*>(block_.dx) + t * block_.dx_stride;
    for_each_strip(in_.channels, [&](int s, auto count) {
      const int channel = s * kLanes;
      prefetch_rows<false>(pack, x + channel, in_.x_stride);
      prefetch_rows<false>(pack, dy + channel, block_.dy_stride);
      prefetch_rows<true>(pack, dx + channel, block_.dx_stride);
      const auto inputs = inputs_at<T, kWidth, kRowsBefore>(in_, piece, t, s, pack, count);
      const auto before = apply(weights_.of[s], inputs);
      const auto gradients =
          map([](F32 g, F32 v, F32 slope_at) { return g * silu_slope(v, slope_at); },
              load_rows(pack, dy + channel, block_.dy_stride, 0, count), before, sigmoid(before));
      if constexpr (kSums) {
        F32(&sums)[kWidth + 1] = sums_[s];
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
          for (int k = 0; k < kWidth; ++k) {
            sums[k] = multiply_add(inputs.at[i + k], gradients.at[i], sums[k]);
          }
          sums[kWidth] += gradients.at[i];
        }
      }
      emit(piece, t, s, count, gradients);
    });
  }

  // The gradients of the inputs W − 1 before tokens t, t + 1, …, whose own are `next`.
  template <int kCount, typename Count>
  [[gnu::always_inline]] void emit(const Piece& piece, int64_t t, int s, Count count,
                                   const Pack<kCount>& next) {
    F32 gradients[kWidth - 1 + kCount];
#pragma GCC unroll 8
    for (int k = 0; k < kWidth - 1; ++k) gradients[k] = past_[s][k];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) gradients[kWidth - 1 + i] = next.at[i];
#pragma GCC unroll 8
    for (int k = 0; k < kWidth - 1; ++k) past_[s][k] = gradients[kCount + k];
    Pack<kCount> dx = {};
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) {
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        dx.at[i] = multiply_add(weights_.of[s].tap[k], gradients[kWidth - 1 - k + i], dx.at[i]);
      }
    }
    const int64_t first = t - (kWidth - 1);
    if (first >= piece.begin && first + kCount <= in_.row_length - (kWidth - 1)) {
      store_rows(static_cast<T*>(block_.dx) + first * block_.dx_stride + s * kLanes,
                 block_.dx_stride, 0, count, dx);
      return;
    }
    for (int i = 0; i < kCount; ++i) emit_row(piece, first + i, s, count, dx.at[i]);
  }

  // dx of token j; a negative j is an input before a carried row. Inputs kept in the final state
  // have a gradient from there too.
  void emit_row(const Piece& piece, int64_t j, int s, int count, F32 dx) const {
    const bool carried = j < 0 && piece.begin == 0 && piece.document < 0;
    if (j < piece.begin && !carried) return;
    const int64_t kept = j - in_.row_length + kWidth - 1;
    if (kept >= 0 && block_.dfinal != nullptr && piece.document_end == in_.row_length) {
      dx += load_strip(block_.dfinal + kept * in_.initial_stride + s * kLanes, count);
    }
    if (j >= 0) {
      store_strip(static_cast<T*>(block_.dx) + j * block_.dx_stride + s * kLanes, dx, count);
    } else if (block_.dinitial != nullptr) {
      store_strip(block_.dinitial + (j + kWidth - 1) * in_.initial_stride + s * kLanes, dx, count);
    }
  }

  const ConvBackwardBlock& block_;
  const ConvBlock& in_;
  GroupWeights<kWidth> weights_;
  F32 past_[kMostStrips][kWidth - 1] = {};  // gradients of the last outputs
  F32 sums_[kMostStrips][kWidth + 1] = {};  // of dweight, then dbias
};

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
