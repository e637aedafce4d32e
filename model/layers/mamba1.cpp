#include "model/layers/mamba1.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/base/philox.h"

namespace sidewinder {

Mamba1::Mamba1(const std::string& name, int64_t width, const BlockOptions& options,
               const Initializer& initializer, double residual_divisor)
    : inner_(options.expand * width),
      state_(options.state),
      dt_rank_(options.dt_rank != 0 ? options.dt_rank : (width + 15) / 16) {
  const Initializer& init = initializer;
  in_proj_ = init.linear(name + ".in_proj.weight", 2 * inner_, width);
  const double conv_bound = 1.0 / std::sqrt(static_cast<double>(options.conv_width));
  conv_weight_ = init.uniform(name + ".conv.weight", ParameterRole::conv,
                              {inner_, options.conv_width}, conv_bound);
  conv_bias_ = init.uniform(name + ".conv.bias", ParameterRole::bias, {inner_}, conv_bound);
  x_proj_ = init.linear(name + ".x_proj.weight", dt_rank_ + 2 * state_, inner_);
  dt_proj_ = init.uniform(name + ".dt_proj.weight", ParameterRole::matrix, {inner_, dt_rank_},
                          1.0 / std::sqrt(static_cast<double>(dt_rank_)));
  // softplus(dt_bias) is log-uniform in [dt_min, dt_max].
  const Philox random(init.seed, name + ".dt_bias");
  const double low = std::log(options.dt_min);
  const double high = std::log(options.dt_max);
  dt_bias_ = init.from(name + ".dt_bias", ParameterRole::bias, {inner_}, [&](int64_t i) {
    const double u = random.uniform(static_cast<uint64_t>(i));
    const double dt = std::max(std::exp(low + u * (high - low)), options.dt_floor);
    return dt + std::log(-std::expm1(-dt));
  });
  a_log_ = init.from(name + ".A_log", ParameterRole::state_space, {inner_, state_}, [&](int64_t i) {
    return std::log(static_cast<double>(i % state_ + 1));
  });
  d_ = init.constant(name + ".D", ParameterRole::state_space, {inner_}, 1.0);
  out_proj_ = init.linear(name + ".out_proj.weight", width, inner_, residual_divisor);
}

Var Mamba1::forward(const Pass& pass, const Norm& norm, const Var& x) {
  CarriedState conv_state;
  CarriedState scan_state;
  if (pass.state != nullptr) {
    conv_state.initial = Var(pass.state->conv);
    scan_state.initial = Var(pass.state->scan);
  } else if (pass.before != nullptr) {
    conv_state.initial = pass.before->conv;
    scan_state.initial = pass.before->scan;
  }
  conv_state.want_final = scan_state.want_final = pass.state != nullptr || pass.after != nullptr;
  const std::array<int64_t, 2> halves = {inner_, inner_};
  std::vector<Var> xz = split(normed_linear(pass, norm, x, in_proj_), halves);
  const Var u =
      causal_conv(xz[0], pass(conv_weight_), pass(conv_bias_), *pass.state_layout, &conv_state);
  const std::array<int64_t, 3> parts = {dt_rank_, state_, state_};
  std::vector<Var> rbc = split(linear(u, pass(x_proj_)), parts);
  const Var delta = linear(rbc[0], pass(dt_proj_));
  const Var y = selective_scan({.u = u,
                                .delta = delta,
                                .a_log = pass(a_log_),
                                .b = rbc[1],
                                .c = rbc[2],
                                .d = pass(d_),
                                .z = xz[1],
                                .delta_bias = pass(dt_bias_)},
                               *pass.state_layout, &scan_state);
  Tape::make_again(u, [this, x = xz[0].value(), layout = pass.state_layout,
                       initial = conv_state.initial.value()] {
    CarriedState state{.initial = Var(initial), .final_state = {}};
    return causal_conv(Var(x), Tape::frozen(conv_weight_), Tape::frozen(conv_bias_), *layout,
                       &state)
        .value();
  });
  Tape::make_again(delta, [this, rank = rbc[0].value()] {
    return linear(Var(rank), Tape::frozen(dt_proj_)).value();
  });
  if (pass.state != nullptr) {
    pass.state->conv = conv_state.final_state.value();
    pass.state->scan = scan_state.final_state.value();
  } else if (pass.after != nullptr) {
    pass.after->conv = conv_state.final_state;
    pass.after->scan = scan_state.final_state;
  }
  return linear_add(y, pass(out_proj_), x);
}

void Mamba1::visit(const ParameterVisitor& visitor) {
  for (Parameter* parameter : {&in_proj_, &conv_weight_, &conv_bias_, &x_proj_, &dt_proj_, &dt_bias_,
                               &a_log_, &d_, &out_proj_}) {
    visitor(*parameter);
  }
}

int64_t Mamba1::matrix_elements() const {
  return in_proj_.value().count() + x_proj_.value().count() + dt_proj_.value().count() +
         out_proj_.value().count();
}

}  // namespace sidewinder
