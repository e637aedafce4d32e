#include "kernels/ops/matmul.h"

#include "kernels/cpu/gemm.h"
#include "kernels/reference/matmul.h"

namespace sidewinder::cpu {

void pack_weight(Stream, const PackWeightArgs& args) {
  if (args.packed.compute != Dtype::f64) {
    pack_panels(args.packed, matrix_of(args.weight), args.use);
  } else if (args.use == WeightUse::forward) {
    args.packed.data = args.weight.clone();
  } else {
    args.packed.data = reference::transpose(args.weight);
  }
}

void linear(Stream, const LinearArgs& args) {
  if (args.weight.compute == Dtype::f64) {
    reference::linear(args.y, args.x, args.weight.data, args.bias, args.residual);
    return;
  }
  multiply({.y = matrix_of(args.y),
            .x = matrix_of(args.x),
            .weight = args.weight,
            .bias = args.bias.defined() ? args.bias.data<float>() : nullptr,
            .residual = args.residual.defined() ? matrix_of(args.residual) : Matrix{}});
}

void weight_gradient(Stream, const WeightGradientArgs& args) {
  if (args.compute == Dtype::f64) {
    reference::weight_gradient(args.dweight, args.dy, args.x, args.accumulate);
    return;
  }
  if (args.x.rows() == 0 && !args.accumulate) args.dweight.fill_zero();
  multiply_transposed(matrix_of(args.dweight), matrix_of(args.dy), matrix_of(args.x), args.compute,
                      args.accumulate);
}

}  // namespace sidewinder::cpu
