#include "model/layers/swiglu_mlp.h"

namespace sidewinder {

int64_t hidden_width(int64_t width, const BlockOptions& options) {
  return options.hidden != 0 ? options.hidden : (8 * width + 3 * 64 - 1) / (3 * 64) * 64;
}

SwigluMlp::SwigluMlp(const std::string& name, int64_t width, const BlockOptions& options,
                     const Initializer& initializer, double residual_divisor) {
  const int64_t hidden = hidden_width(width, options);
  gate_up_ = initializer.linear(name + ".gate_up.weight", 2 * hidden, width);
  down_ = initializer.linear(name + ".down.weight", width, hidden, residual_divisor);
}

Var SwigluMlp::forward(const Pass& pass, const Norm& norm, const Var& x) {
  return swiglu_linear_add(normed_linear(pass, norm, x, gate_up_), pass(down_), x);
}

void SwigluMlp::visit(const ParameterVisitor& visitor) {
  visitor(gate_up_);
  visitor(down_);
}

int64_t SwigluMlp::matrix_elements() const {
  return gate_up_.value().count() + down_.value().count();
}

}  // namespace sidewinder
