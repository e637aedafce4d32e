#include "kernels/cpu/isa/causal_conv.h"

#include "kernels/cpu/isa/strip.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// Tokens [begin, end) of a block that belong to one document, which ends at `document_end`. The
// document begins at `document`, or before the row (−1) when it continues a carried state.
struct Piece {
  int64_t begin, end;
  int64_t document, document_end;
};

template <typename Do>
void for_each_piece(const ConvBlock& in, Do&& piece) {
  int64_t next = 0;  // the first reset after `begin`
  while (next < in.num_resets && in.resets[next] <= in.begin) ++next;
  for (int64_t begin = in.begin; begin < in.end; ++next) {
    const int64_t document = next > 0 ? in.resets[next - 1] : -1;
    const int64_t document_end = next < in.num_resets ? in.resets[next] : in.row_length;
    const int64_t end = document_end < in.end ? document_end : in.end;
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

// window[kWidth − 1] is the input of the current token, the others are of those before it.
template <int kWidth>
inline void push(F32 (&window)[kWidth], F32 value) {
#pragma GCC unroll 8
  for (int k = 0; k + 1 < kWidth; ++k) window[k] = window[k + 1];
  window[kWidth - 1] = value;
}

// The window before a piece: inputs of the same document, from the row or the state before it.
template <typename T, int kWidth>
void fill_window(const ConvBlock& in, const Piece& piece, int strip, F32 (&window)[kWidth]) {
  const int count = strip_count(in.channels, strip);
  for (int k = 1; k < kWidth; ++k) {
    const int64_t t = piece.begin - kWidth + k;
    F32 value = {};
    if (t >= 0 && t >= piece.document) {
      value = load_strip(static_cast<const T*>(in.x) + t * in.x_stride + strip * kLanes, count);
    } else if (t < 0 && piece.document < 0 && in.initial != nullptr) {
      value = load_strip(in.initial + (t + kWidth - 1) * in.initial_stride + strip * kLanes, count);
    }
    window[k] = value;
  }
}

template <int kWidth>
inline F32 apply(const Weights<kWidth>& weights, const F32 (&window)[kWidth]) {
  F32 sum = weights.bias;
#pragma GCC unroll 8
  for (int k = 0; k < kWidth; ++k) sum += weights.tap[k] * window[k];
  return sum;
}

template <typename T, int kWidth>
void forward_of(const ConvForwardBlock& block) {
  const ConvBlock& in = block.in;
  for (int s = 0; s < strips_of(in.channels); ++s) {
    const int count = strip_count(in.channels, s);
    const Weights<kWidth> weights = weights_of<kWidth>(in, s);
    const T* x = static_cast<const T*>(in.x) + s * kLanes;
    T* y = static_cast<T*>(block.y) + s * kLanes;
    for_each_piece(in, [&](const Piece& piece) {
      F32 window[kWidth];
      fill_window<T>(in, piece, s, window);
      for (int64_t t = piece.begin; t < piece.end; ++t) {
        push(window, load_strip(x + t * in.x_stride, count));
        store_strip(y + t * block.y_stride, silu(apply(weights, window)), count);
      }
    });
  }
}

// One strip of a block. `gradients` holds the gradients of the pre-activations of the last kWidth
// tokens; with token t the gradient of input t − (kWidth − 1) is complete.
template <typename T, int kWidth>
class BackwardStrip {
 public:
  BackwardStrip(const ConvBackwardBlock& block, int strip)
      : block_(block),
        in_(block.in),
        strip_(strip),
        count_(strip_count(in_.channels, strip)),
        weights_(weights_of<kWidth>(in_, strip)) {}

  void run(const Piece& piece) {
    F32 window[kWidth];
    F32 gradients[kWidth] = {};
    F32 dweight[kWidth];
    F32 dbias = dbias_;
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) dweight[k] = dweight_[k];
    fill_window<T>(in_, piece, strip_, window);
    const T* x = static_cast<const T*>(in_.x) + strip_ * kLanes;
    const T* dy = static_cast<const T*>(block_.dy) + strip_ * kLanes;
    for (int64_t t = piece.begin; t < piece.end; ++t) {
      push(window, load_strip(x + t * in_.x_stride, count_));
      const F32 gradient =
          load_strip(dy + t * block_.dy_stride, count_) * silu_derivative(apply(weights_, window));
      push(gradients, gradient);
      dbias += gradient;
#pragma GCC unroll 8
      for (int k = 0; k < kWidth; ++k) dweight[k] += window[k] * gradient;
      emit(piece, t - (kWidth - 1), gradients);
    }
    // The inputs at the end of the piece also went into later tokens of the document, whose weight
    // gradients belong to the next block; past the document's end there is nothing.
    for (int64_t t = piece.end; t < piece.end + kWidth - 1; ++t) {
      F32 gradient = {};
      if (t < piece.document_end) {
        push(window, load_strip(x + t * in_.x_stride, count_));
        gradient = load_strip(dy + t * block_.dy_stride, count_) *
                   silu_derivative(apply(weights_, window));
      }
      push(gradients, gradient);
      emit(piece, t - (kWidth - 1), gradients);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) dweight_[k] = dweight[k];
    dbias_ = dbias;
  }

  void store_sums() const {
    for (int k = 0; k < kWidth; ++k) {
      store_strip(block_.partial + k * block_.partial_stride + strip_ * kLanes, dweight_[k],
                  count_);
    }
    store_strip(block_.partial + kWidth * block_.partial_stride + strip_ * kLanes, dbias_, count_);
  }

 private:
  // dx of token j; a negative j is an input before a carried row.
  void emit(const Piece& piece, int64_t j, const F32 (&gradients)[kWidth]) const {
    const bool carried = j < 0 && piece.begin == 0 && piece.document < 0;
    if (j < piece.begin && !carried) return;
    F32 dx = {};
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) dx += weights_.tap[k] * gradients[kWidth - 1 - k];
    const int64_t kept = j - in_.row_length + kWidth - 1;  // its place in the final state
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
  int strip_;
  int count_;
  Weights<kWidth> weights_;
  F32 dweight_[kWidth] = {};
  F32 dbias_ = {};
};

template <typename T, int kWidth>
void backward_of(const ConvBackwardBlock& block) {
  for (int s = 0; s < strips_of(block.in.channels); ++s) {
    BackwardStrip<T, kWidth> strip(block, s);
    for_each_piece(block.in, [&](const Piece& piece) { strip.run(piece); });
    strip.store_sums();
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
