// Functions that treat every token alone: norm and gated activation.
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/swiglu.h"
#include "model/autograd/functions.h"

namespace sidewinder {

Var rms_norm(const Var& x, const Var& weight, double eps, Dtype dtype) {
  auto [y, rstd] = ops::rms_norm(x.value(), weight.value(), eps, dtype);
  return Tape::record("rms_norm", {x, weight}, y,
                      [x = x.value(), weight = weight.value(), rstd = rstd](Gradients& io) {
                        if (!io.wanted(0)) {
                          Tensor unused;
                          ops::rms_norm_backward(unused, io.sum(1), io.output(), x, weight, rstd,
                                                 x.dtype());
                          return;
                        }
                        // Adds to the gradient that the residual path has left, in one pass.
                        ops::rms_norm_backward(io.pending(0), io.sum(1), io.output(), x, weight,
                                               rstd, x.dtype());
                      });
}

Var swiglu(const Var& gate_up) {
  return Tape::record("swiglu", {gate_up}, ops::swiglu(gate_up.value()),
                      [gate_up = gate_up.value()](Gradients& io) {
                        io.add(0, ops::swiglu_backward(io.output(), gate_up));
                      });
}

}  // namespace sidewinder
