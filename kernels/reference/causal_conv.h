#pragma once
// The causal convolution as plain loops: the oracle of its kernels, and the f64 kernel itself.
// Templates, for the complex step and to take the error of the plainest f32 computation.

#include <cmath>
#include <complex>

#include "kernels/ops/causal_conv.h"
#include "kernels/reference/rows.h"

namespace sidewinder::reference {

// Shapes as in CausalConvArgs; states are rows of (W−1)·C elements.
template <typename S>
struct ConvTensors {
  int64_t channels = 0;
  int64_t width = 0;
  Rows<const S> x, weight, bias, initial;
  Rows<S> y, final_state;
};

// The input `back` tokens before token t in its document, counting what a carried row goes on from.
template <typename S>
S conv_input(const ConvTensors<S>& conv, const SequenceLayout& layout, int64_t t, int64_t back,
             int64_t channel) {
  const int64_t row = t / layout.row_length;
  const int64_t begin = layout.document_start.data<int32_t>()[t];
  if (t - back >= begin) return conv.x(t - back, channel);
  const int64_t before_row = t - back - row * layout.row_length;  // −1 is the last one before it
  const bool continues = begin == row * layout.row_length && layout.is_carried(row);
  if (!continues || !conv.initial.defined() || before_row < 1 - conv.width) return S(0);
  return conv.initial(row, (before_row + conv.width - 1) * conv.channels + channel);
}

template <typename S>
S conv_before_silu(const ConvTensors<S>& conv, const SequenceLayout& layout, int64_t t,
                   int64_t channel) {
  S sum = conv.bias.defined() ? conv.bias(channel, 0) : S(0);
  for (int64_t k = 0; k < conv.width; ++k) {
    sum += conv.weight(channel, k) * conv_input(conv, layout, t, conv.width - 1 - k, channel);
  }
  return sum;
}

template <typename S>
void causal_conv(const ConvTensors<S>& conv, const SequenceLayout& layout) {
  for (int64_t t = 0; t < layout.tokens(); ++t) {
    for (int64_t c = 0; c < conv.channels; ++c) {
      const S before = conv_before_silu(conv, layout, t, c);
      conv.y(t, c) = before / (S(1) + std::exp(-before));
    }
  }
  if (!conv.final_state.defined()) return;
  for (int64_t row = 0; row < layout.rows; ++row) {
    const int64_t last = (row + 1) * layout.row_length - 1;
    for (int64_t i = 0; i < conv.width - 1; ++i) {
      for (int64_t c = 0; c < conv.channels; ++c) {
        conv.final_state(row, i * conv.channels + c) =
            conv_input(conv, layout, last, conv.width - 2 - i, c);
      }
    }
  }
}

template <typename S>
struct ConvGradients {
  Rows<const S> dy, dfinal;
  Rows<S> dx, dinitial;
  Rows<S> dweight, dbias;  // added to
};

template <typename S>
void causal_conv_backward(const ConvTensors<S>& conv, const ConvGradients<S>& gradients,
                          const SequenceLayout& layout) {
  for (int64_t t = 0; t < layout.tokens(); ++t) {
    for (int64_t c = 0; c < conv.channels; ++c) gradients.dx(t, c) = 0;
  }
  for (int64_t row = 0; row < layout.rows && gradients.dinitial.defined(); ++row) {
    for (int64_t i = 0; i < (conv.width - 1) * conv.channels; ++i) gradients.dinitial(row, i) = 0;
  }
  // Adds to the gradient of conv_input(t, back, channel).
  const auto add = [&](int64_t t, int64_t back, int64_t channel, S gradient) {
    const int64_t row = t / layout.row_length;
    const int64_t begin = layout.document_start.data<int32_t>()[t];
    if (t - back >= begin) {
      gradients.dx(t - back, channel) += gradient;
      return;
    }
    const int64_t before_row = t - back - row * layout.row_length;
    const bool continues = begin == row * layout.row_length && layout.is_carried(row);
    if (!continues || !gradients.dinitial.defined() || before_row < 1 - conv.width) return;
    gradients.dinitial(row, (before_row + conv.width - 1) * conv.channels + channel) += gradient;
  };
  for (int64_t t = 0; t < layout.tokens(); ++t) {
    for (int64_t c = 0; c < conv.channels; ++c) {
      const S before = conv_before_silu(conv, layout, t, c);
      const S s = S(1) / (S(1) + std::exp(-before));
      const S slope = s * (S(1) + before * (S(1) - s));
      const S gradient = gradients.dy(t, c) * slope;
      if (gradients.dbias.defined()) gradients.dbias(c, 0) += gradient;
      for (int64_t k = 0; k < conv.width; ++k) {
        const int64_t back = conv.width - 1 - k;
        gradients.dweight(c, k) += conv_input(conv, layout, t, back, c) * gradient;
        add(t, back, c, conv.weight(c, k) * gradient);
      }
    }
  }
  for (int64_t row = 0; row < layout.rows && gradients.dfinal.defined(); ++row) {
    const int64_t last = (row + 1) * layout.row_length - 1;
    for (int64_t i = 0; i < conv.width - 1; ++i) {
      for (int64_t c = 0; c < conv.channels; ++c) {
        add(last, conv.width - 2 - i, c, gradients.dfinal(row, i * conv.channels + c));
      }
    }
  }
}

// The same on tensors of one type throughout (f32 or f64).
void causal_conv(const CausalConvArgs& args);
void causal_conv_backward(const CausalConvBackwardArgs& args);

}  // namespace sidewinder::reference
