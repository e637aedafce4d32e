// Functions that treat every token alone.
#include "kernels/ops/rms_norm.h"
#include "model/autograd/functions.h"

namespace sidewinder {

Var rms_norm(const Var& x, const Var& weight, double eps, Dtype dtype) {
  auto [y, rstd] = ops::rms_norm(x.value(), weight.value(), eps, dtype);
  return Tape::record("rms_norm", {x, weight}, y,
                      [x = x.value(), weight = weight.value(), rstd = rstd](Gradients& io) {
                        // Adds to the gradient that the residual path has left, in one pass.
                        Tensor unused;
                        ops::rms_norm_backward(io.wanted(0) ? io.pending(0) : unused, io.sum(1),
                                               io.output(), x, weight, rstd, x.dtype());
                      });
}

}  // namespace sidewinder
