#include "kernels/cpu/isa/adamw.h"

#include "kernels/cpu/isa/elementwise.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

void step(const AdamwRange& a) {
  for_each_vector(a.count, [&](int64_t i, int count) {
    const F32 g = load_count(a.gradient + i, count) * a.gradient_scale;
    const F32 m = load_count(a.m + i, count) * a.beta1 + g * a.one_minus_beta1;
    const F32 v = load_count(a.v + i, count) * a.beta2 + g * g * a.one_minus_beta2;
    const F32 update = a.step_size * m / (square_root(v) * a.v_correction + a.eps);
    store_count(a.weight + i, load_count(a.weight + i, count) * a.keep - update, count);
    store_count(a.m + i, m, count);
    store_count(a.v + i, v, count);
  });
}

}  // namespace

extern const AdamwLoops adamw_loops = {step};

}  // namespace sidewinder::SIDEWINDER_ISA
