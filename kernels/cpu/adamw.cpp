#include "kernels/ops/adamw.h"

#include <cmath>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/adamw.h"
#include "kernels/reference/adamw.h"

namespace sidewinder::cpu {

void adamw(Stream, const AdamwArgs& args) {
  if (args.weight.dtype() == Dtype::f64) return reference::adamw(args);
  const AdamwCoefficients& c = args.coefficients;
  const double t = static_cast<double>(c.step);
  AdamwRange all{
      .weight = args.weight.data<float>(),
      .m = args.m.data<float>(),
      .v = args.v.data<float>(),
      .gradient = args.gradient.data<float>(),
      .count = args.weight.count(),
      .beta1 = static_cast<float>(c.beta1),
      .one_minus_beta1 = static_cast<float>(1 - c.beta1),
      .beta2 = static_cast<float>(c.beta2),
      .one_minus_beta2 = static_cast<float>(1 - c.beta2),
      .gradient_scale = static_cast<float>(c.gradient_scale),
      .keep = static_cast<float>(1 - c.learning_rate * c.weight_decay),
      .step_size = static_cast<float>(c.learning_rate / (1 - std::pow(c.beta1, t))),
      .v_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(c.beta2, t))),
      .eps = static_cast<float>(c.eps),
  };
  parallel_ranges(all.count, 65536, [&](int64_t begin, int64_t end) {
    AdamwRange range = all;
    range.weight += begin;
    range.m += begin;
    range.v += begin;
    range.gradient += begin;
    range.count = end - begin;
    adamw_loops_for_isa().step(range);
  });
}

}  // namespace sidewinder::cpu
