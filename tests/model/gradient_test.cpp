#include <gtest/gtest.h>

#include "model/check/gradient_check.h"

namespace sidewinder {
namespace {

TEST(Gradients, EveryFunctionMatchesCentralDifferencesInF64) {
  for (const GradientCase& gradient_case : gradient_cases(Dtype::f64, CaseSize::small)) {
    const GradientError error = check_gradients(gradient_case.function, gradient_case.inputs);
    EXPECT_LT(error.worst, 1e-7) << gradient_case.name << ", input " << error.worst_input;
  }
}

TEST(Gradients, F32KernelsStayNearF64) {
  for (const GradientCase& gradient_case : gradient_cases(Dtype::f32, CaseSize::large)) {
    EXPECT_LT(rounding_error(gradient_case, Dtype::f32), 5e-6) << gradient_case.name;
  }
}

TEST(Gradients, Bf16KernelsStayNearF64) {
  for (const GradientCase& gradient_case : gradient_cases(Dtype::bf16, CaseSize::large)) {
    EXPECT_LT(rounding_error(gradient_case, Dtype::bf16), 1e-2) << gradient_case.name;
  }
}

TEST(Gradients, TheCheckerSeesAWrongFactor) {
  const DifferentiableFunction wrong = [](const std::vector<Var>& in) {
    return std::vector<Var>{Tape::record("wrong", {in[0]}, in[0].value().clone(), [](Gradients& io) {
      Tensor gradient = io.output().clone();
      gradient.data<double>()[0] *= 1.0001;
      io.add(0, std::move(gradient));
    })};
  };
  EXPECT_GT(check_gradients(wrong, {Tensor::from<double>({2}, {1.0, 2.0})}).worst, 1e-5);
}

}  // namespace
}  // namespace sidewinder
