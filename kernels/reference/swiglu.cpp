#include "kernels/reference/swiglu.h"

namespace sidewinder::reference {

void swiglu(const SwigluArgs& args) {
  const int64_t width = args.gate_up.width() / 2;
  for (int64_t row = 0; row < args.gate_up.rows(); ++row) {
    double* y = args.y.data<double>() + row * args.y.row_stride();
    const double* gate = args.gate_up.data<double>() + row * args.gate_up.row_stride();
    for (int64_t i = 0; i < width; ++i) y[i] = swiglu_element(gate[i], gate[width + i]);
  }
}

void swiglu_backward(const SwigluBackwardArgs& args) {
  const int64_t width = args.gate_up.width() / 2;
  for (int64_t row = 0; row < args.gate_up.rows(); ++row) {
    double* dgate = args.dgate_up.data<double>() + row * args.dgate_up.row_stride();
    const double* dy = args.dy.data<double>() + row * args.dy.row_stride();
    const double* gate = args.gate_up.data<double>() + row * args.gate_up.row_stride();
    for (int64_t i = 0; i < width; ++i) {
      // By value: the outputs may lie where the inputs do.
      const double g = gate[i];
      const double up = gate[width + i];
      const double gradient = dy[i];
      swiglu_element_backward(dgate[i], dgate[width + i], gradient, g, up);
      if (args.y.defined()) {
        args.y.data<double>()[row * args.y.row_stride() + i] = swiglu_element(g, up);
      }
    }
  }
}

}  // namespace sidewinder::reference
