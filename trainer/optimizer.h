#pragma once
// AdamW over all parameters of a model: f32 masters and moments, one global gradient norm.

#include <string>
#include <vector>

#include "kernels/tensor/tensor.h"
#include "model/autograd/parameter.h"
#include "trainer/options.h"

namespace sidewinder {

class Optimizer {
 public:
  // The parameters must outlive the optimizer and keep their addresses.
  Optimizer(std::vector<Parameter*> parameters, const OptimizerOptions& options);

  void zero_gradients();
  // √Σ g² over all parameters, parameter by parameter in order; not finite if any gradient is not.
  double gradient_norm() const;
  // One update (its 1-based number decides the bias corrections), gradients scaled down to
  // max_gradient_norm when `norm` exceeds it.
  void step(double learning_rate, double norm, int64_t number);

  struct Moments {
    Tensor m, v;
  };
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  // In the order of parameters().
  std::vector<Moments>& moments() { return moments_; }
  const std::vector<Moments>& moments() const { return moments_; }

 private:
  std::vector<Parameter*> parameters_;
  std::vector<Moments> moments_;
  OptimizerOptions options_;
};

}  // namespace sidewinder
