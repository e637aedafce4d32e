#include "kernels/reference/rms_norm.h"

namespace sidewinder::reference {

void rms_norm(const RmsNormArgs& args) {
  const int64_t width = args.weight.count();
  for (int64_t row = 0; row < args.x.rows(); ++row) {
    for (int64_t group = 0; group < args.x.width() / width; ++group) {
      args.rstd.data<double>()[row * (args.x.width() / width) + group] =
          rms_norm_vector(args.y.data<double>() + row * args.y.row_stride() + group * width,
                          args.x.data<double>() + row * args.x.row_stride() + group * width,
                          args.weight.data<double>(), width, args.eps);
    }
  }
}

void rms_norm_backward(const RmsNormBackwardArgs& args) {
  const int64_t width = args.weight.count();
  for (int64_t row = 0; row < args.x.rows(); ++row) {
    for (int64_t group = 0; group < args.x.width() / width; ++group) {
      const double rstd = args.rstd.data<double>()[row * (args.x.width() / width) + group];
      const double* x = args.x.data<double>() + row * args.x.row_stride() + group * width;
      rms_norm_vector_backward(args.dx.data<double>() + row * args.dx.row_stride() + group * width,
                               args.dweight.data<double>(),
                               args.dy.data<double>() + row * args.dy.row_stride() + group * width,
                               x, args.weight.data<double>(), rstd, width, args.accumulate);
      if (!args.y.defined()) continue;
      double* y = args.y.data<double>() + row * args.y.row_stride() + group * width;
      for (int64_t i = 0; i < width; ++i) y[i] = x[i] * rstd * args.weight.data<double>()[i];
    }
  }
}

}  // namespace sidewinder::reference
