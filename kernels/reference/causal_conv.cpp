#include "kernels/reference/causal_conv.h"

namespace sidewinder::reference {
namespace {

template <typename S>
void forward(const CausalConvArgs& args) {
  causal_conv<S>({.channels = args.weight.size(0),
                  .width = args.weight.size(1),
                  .x = rows_of<const S>(args.x),
                  .weight = rows_of<const S>(args.weight),
                  .bias = rows_of<const S>(args.bias),
                  .initial = rows_of<const S>(args.initial),
                  .y = rows_of<S>(args.y),
                  .final_state = rows_of<S>(args.final_state)},
                 args.layout);
}

template <typename S>
void backward(const CausalConvBackwardArgs& args) {
  causal_conv_backward<S>({.channels = args.weight.size(0),
                           .width = args.weight.size(1),
                           .x = rows_of<const S>(args.x),
                           .weight = rows_of<const S>(args.weight),
                           .bias = rows_of<const S>(args.bias),
                           .initial = rows_of<const S>(args.initial),
                           .y = {},
                           .final_state = {}},
                          {.dy = rows_of<const S>(args.dy),
                           .dfinal = rows_of<const S>(args.dfinal),
                           .dx = rows_of<S>(args.dx),
                           .dinitial = rows_of<S>(args.dinitial),
                           .dweight = rows_of<S>(args.dweight),
                           .dbias = rows_of<S>(args.dbias)},
                          args.layout);
}

}  // namespace

void causal_conv(const CausalConvArgs& args) {
  return args.x.dtype() == Dtype::f64 ? forward<double>(args) : forward<float>(args);
}

void causal_conv_backward(const CausalConvBackwardArgs& args) {
  return args.x.dtype() == Dtype::f64 ? backward<double>(args) : backward<float>(args);
}

}  // namespace sidewinder::reference
