#include "trainer/optimizer.h"

#include <cmath>
#include <utility>

#include "kernels/ops/adamw.h"
#include "kernels/ops/norm_sq.h"

namespace sidewinder {

Optimizer::Optimizer(std::vector<Parameter*> parameters, const OptimizerOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const Parameter* parameter : parameters_) {
    const Tensor& value = parameter->value();
    moments_.push_back({Tensor::zeros(value.shape(), value.dtype(), value.device()),
                        Tensor::zeros(value.shape(), value.dtype(), value.device())});
  }
}

void Optimizer::zero_gradients() {
  for (Parameter* parameter : parameters_) parameter->zero_gradient();
}

double Optimizer::gradient_norm() const {
  double sum = 0;
  for (Parameter* parameter : parameters_) sum += ops::norm_sq(parameter->gradient());
  return std::sqrt(sum);
}

void Optimizer::step(double learning_rate, double norm, int64_t number) {
  const double limit = options_.max_gradient_norm;
  AdamwCoefficients coefficients{
      .learning_rate = learning_rate,
      .beta1 = options_.beta1,
      .beta2 = options_.beta2,
      .eps = options_.eps,
      .weight_decay = 0,
      .gradient_scale = limit > 0 && norm > limit ? limit / (norm + 1e-6) : 1.0,
      .step = number,
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    const bool decayed =
        decays(parameter.role()) &&
        (parameter.role() != ParameterRole::embedding || options_.decay_embeddings);
    coefficients.weight_decay = decayed ? options_.weight_decay : 0;
    ops::adamw(parameter.mutable_value(), moments_[i].m, moments_[i].v, parameter.gradient(),
               coefficients);
  }
}

}  // namespace sidewinder
