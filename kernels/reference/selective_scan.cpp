#include "kernels/reference/selective_scan.h"

namespace sidewinder::reference {
namespace {

template <typename S>
ScanTensors<S> tensors_of(const SelectiveScanInputs& in) {
  return {
      .channels = in.a.size(0),
      .states = in.a.size(1),
      .u = rows_of<const S>(in.u),
      .delta = rows_of<const S>(in.delta),
      .a = rows_of<const S>(in.a),
      .b = rows_of<const S>(in.b),
      .c = rows_of<const S>(in.c),
      .d = rows_of<const S>(in.d),
      .z = rows_of<const S>(in.z),
      .delta_bias = rows_of<const S>(in.delta_bias),
      .initial = rows_of<const S>(in.initial),
      .out = {},
      .chunk_states = {},
      .final_state = {},
  };
}

template <typename S>
void forward(const SelectiveScanArgs& args) {
  ScanTensors<S> tensors = tensors_of<S>(args.in);
  tensors.out = rows_of<S>(args.out);
  tensors.chunk_states = rows_of<S>(args.chunk_states);
  tensors.final_state = rows_of<S>(args.final_state);
  selective_scan(tensors, args.layout);
}

template <typename S>
void backward(const SelectiveScanBackwardArgs& args) {
  const ScanGradients<S> gradients = {
      .dout = rows_of<const S>(args.dout),
      .dfinal = rows_of<const S>(args.dfinal),
      .du = rows_of<S>(args.gradients.du),
      .ddelta = rows_of<S>(args.gradients.ddelta),
      .db = rows_of<S>(args.gradients.db),
      .dc = rows_of<S>(args.gradients.dc),
      .dz = rows_of<S>(args.gradients.dz),
      .dinitial = rows_of<S>(args.gradients.dinitial),
      .da = rows_of<S>(args.da),
      .dd = rows_of<S>(args.dd),
      .ddelta_bias = rows_of<S>(args.ddelta_bias),
  };
  selective_scan_backward(tensors_of<S>(args.in), gradients, args.layout);
}

}  // namespace

void selective_scan(const SelectiveScanArgs& args) {
  return args.in.u.dtype() == Dtype::f64 ? forward<double>(args) : forward<float>(args);
}

void selective_scan_backward(const SelectiveScanBackwardArgs& args) {
  return args.in.u.dtype() == Dtype::f64 ? backward<double>(args) : backward<float>(args);
}

}  // namespace sidewinder::reference
