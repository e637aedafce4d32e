#pragma once
// The selective scan as plain loops, the oracle of its kernels and the f64 kernel itself. The
// forward pass is a template, so that tests can differentiate it by the complex step.

#include <cmath>
#include <complex>
#include <vector>

#include "kernels/ops/selective_scan.h"
#include "kernels/reference/rows.h"

namespace sidewinder::reference {

inline float log_one_plus_exp(float x) { return std::log1p(std::exp(x)); }
inline double log_one_plus_exp(double x) { return std::log1p(std::exp(x)); }
inline std::complex<double> log_one_plus_exp(std::complex<double> x) {
  return std::log(1.0 + std::exp(x));
}

// The identity above 20, as in the published kernels.
template <typename S>
S softplus(S x) {
  return std::real(x) > 20 ? x : log_one_plus_exp(x);
}

template <typename S>
S sigmoid(S x) {
  return S(1) / (S(1) + std::exp(-x));
}

// Shapes as in SelectiveScanInputs and SelectiveScanArgs; states are rows of E·N elements.
template <typename S>
struct ScanTensors {
  int64_t channels = 0;
  int64_t states = 0;
  Rows<const S> u, delta, a, b, c, d, z, delta_bias, initial;
  Rows<S> out, chunk_states, final_state;
};

template <typename S>
void selective_scan(const ScanTensors<S>& x, const SequenceLayout& layout) {
  const int64_t num_chunks = (layout.row_length + kScanChunk - 1) / kScanChunk;
  const int32_t* document_start = layout.document_start.data<int32_t>();
  std::vector<S> h(static_cast<size_t>(x.states));
  for (int64_t row = 0; row < layout.rows; ++row) {
    for (int64_t e = 0; e < x.channels; ++e) {
      for (int64_t n = 0; n < x.states; ++n) {
        const bool continues = layout.is_carried(row) && x.initial.defined();
        h[static_cast<size_t>(n)] = continues ? x.initial(row, e * x.states + n) : S(0);
      }
      for (int64_t i = 0; i < layout.row_length; ++i) {
        const int64_t t = row * layout.row_length + i;
        const bool reset = document_start[t] == t && !(i == 0 && layout.is_carried(row));
        const S delta = softplus(x.delta(t, e) + x.delta_bias(e, 0));
        S y = x.d(e, 0) * x.u(t, e);
        for (int64_t n = 0; n < x.states; ++n) {
          S& state = h[static_cast<size_t>(n)];
          if (x.chunk_states.defined() && i % kScanChunk == 0) {
            x.chunk_states(row * num_chunks + i / kScanChunk, e * x.states + n) = state;
          }
          const S before = reset ? S(0) : state;
          state = std::exp(delta * x.a(e, n)) * before + delta * x.u(t, e) * x.b(t, n);
          y += x.c(t, n) * state;
        }
        x.out(t, e) = x.z.defined() ? y * x.z(t, e) * sigmoid(x.z(t, e)) : y;
      }
      for (int64_t n = 0; n < x.states && x.final_state.defined(); ++n) {
        x.final_state(row, e * x.states + n) = h[static_cast<size_t>(n)];
      }
    }
  }
}

template <typename S>
struct ScanGradients {
  Rows<const S> dout, dfinal;
  Rows<S> du, ddelta, db, dc, dz, dinitial;
  Rows<S> da, dd, ddelta_bias;  // added to
};

// Keeps all states of one row and channel; the saved chunk states are not needed.
template <typename S>
void selective_scan_backward(const ScanTensors<S>& x, const ScanGradients<S>& gradients,
                             const SequenceLayout& layout) {
  const int32_t* document_start = layout.document_start.data<int32_t>();
  const int64_t length = layout.row_length;
  const int64_t states = x.states;
  for (int64_t t = 0; t < layout.tokens(); ++t) {
    for (int64_t n = 0; n < states; ++n) gradients.db(t, n) = gradients.dc(t, n) = 0;
  }

  std::vector<S> before(static_cast<size_t>(length * states));  // the state that a token decays
  std::vector<S> after(static_cast<size_t>(length * states));
  std::vector<S> y(static_cast<size_t>(length));
  std::vector<S> g(static_cast<size_t>(states));
  for (int64_t row = 0; row < layout.rows; ++row) {
    const auto resets = [&](int64_t i) {
      const int64_t t = row * length + i;
      return document_start[t] == t && !(i == 0 && layout.is_carried(row));
    };
    for (int64_t e = 0; e < x.channels; ++e) {
      for (int64_t i = 0; i < length; ++i) {
        const int64_t t = row * length + i;
        const S delta = softplus(x.delta(t, e) + x.delta_bias(e, 0));
        S sum = x.d(e, 0) * x.u(t, e);
        for (int64_t n = 0; n < states; ++n) {
          const size_t k = static_cast<size_t>(i * states + n);
          if (resets(i)) {
            before[k] = 0;
          } else if (i > 0) {
            before[k] = after[k - static_cast<size_t>(states)];
          } else {
            before[k] = x.initial.defined() ? x.initial(row, e * states + n) : S(0);
          }
          after[k] = std::exp(delta * x.a(e, n)) * before[k] + delta * x.u(t, e) * x.b(t, n);
          sum += x.c(t, n) * after[k];
        }
        y[static_cast<size_t>(i)] = sum;
      }
      for (int64_t n = 0; n < states; ++n) {
        const bool given = gradients.dfinal.defined();
        g[static_cast<size_t>(n)] = given ? gradients.dfinal(row, e * states + n) : S(0);
      }
      for (int64_t i = length - 1; i >= 0; --i) {
        const int64_t t = row * length + i;
        const S raw = x.delta(t, e) + x.delta_bias(e, 0);
        const S delta = softplus(raw);
        S dy = gradients.dout(t, e);
        if (x.z.defined()) {
          const S z = x.z(t, e);
          const S s = sigmoid(z);
          gradients.dz(t, e) = dy * y[static_cast<size_t>(i)] * s * (1 + z * (1 - s));
          dy *= z * s;
        }
        S q = 0;
        S exponent = 0;
        for (int64_t n = 0; n < states; ++n) {
          const size_t k = static_cast<size_t>(i * states + n);
          const S decay = std::exp(delta * x.a(e, n));
          const S p = decay * before[k];
          S& gradient = g[static_cast<size_t>(n)];
          gradient += dy * x.c(t, n);
          gradients.dc(t, n) += dy * after[k];
          gradients.db(t, n) += gradient * delta * x.u(t, e);
          gradients.da(e, n) += gradient * delta * p;
          q += gradient * x.b(t, n);
          exponent += gradient * x.a(e, n) * p;
          gradient = resets(i) ? S(0) : decay * gradient;
        }
        const S slope = raw > 20 ? S(1) : sigmoid(raw);
        const S ddelta = (x.u(t, e) * q + exponent) * slope;
        gradients.du(t, e) = x.d(e, 0) * dy + delta * q;
        gradients.ddelta(t, e) = ddelta;
        gradients.ddelta_bias(e, 0) += ddelta;
        gradients.dd(e, 0) += dy * x.u(t, e);
      }
      // Zero where the row's first document is not carried: its first token reset g.
      for (int64_t n = 0; n < states && gradients.dinitial.defined(); ++n) {
        gradients.dinitial(row, e * states + n) = g[static_cast<size_t>(n)];
      }
    }
  }
}

// The same on tensors of one type S throughout (f32 or f64).
void selective_scan(const SelectiveScanArgs& args);
void selective_scan_backward(const SelectiveScanBackwardArgs& args);

}  // namespace sidewinder::reference
