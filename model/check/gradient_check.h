#pragma once
// Backward passes against central differences in f64. Closed: used by tests and `selftest` only.

#include <functional>
#include <string>
#include <vector>

#include "model/autograd/tape.h"

namespace sidewinder {

using DifferentiableFunction = std::function<std::vector<Var>(const std::vector<Var>&)>;

struct GradientError {
  double worst = 0;     // ‖analytic − numeric‖ / ‖numeric‖ of the worst input
  int worst_input = 0;
};

// f64 inputs. The scalar that is differentiated is the inner product of the outputs with fixed random
// weights (1 for an output with a single element). Inputs of up to 64 elements are checked element by
// element, larger ones along 16 random directions. The error of the differences is about 1e-9.
GradientError check_gradients(const DifferentiableFunction& function,
                              const std::vector<Tensor>& inputs);

// One case for every function of model/autograd/functions.h, with packed documents, windows, groups
// and every option that changes the backward pass.
struct GradientCase {
  std::string name;
  DifferentiableFunction function;
  std::vector<Tensor> inputs;  // f64, with values that the case's type can hold
  std::vector<uint8_t> is_weight;  // 1: a parameter, f32 whatever the activations are
};
// `dtype`: of the activations. Small cases suit differences; large ones fill tiles and chunks.
enum class CaseSize : uint8_t { small, large };
std::vector<GradientCase> gradient_cases(Dtype dtype, CaseSize size);

// Outputs and gradients of a case computed in `dtype` against the same in f64: the worst
// ‖actual − exact‖ / ‖exact‖ over all of them.
double rounding_error(const GradientCase& gradient_case, Dtype dtype);

}  // namespace sidewinder
