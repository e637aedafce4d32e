#pragma once
// Initial values. Every draw is Philox(seed, parameter name): adding a layer changes no other
// parameter, and the number of threads changes nothing.

#include <cstdint>
#include <string>

#include "kernels/tensor/tensor.h"
#include "model/autograd/parameter.h"

namespace sidewinder {

struct Initializer {
  uint64_t seed = 0;
  Dtype dtype = Dtype::f32;  // of parameters; f64 in checks

  // U(−bound, bound).
  Parameter uniform(const std::string& name, ParameterRole role, Shape shape, double bound) const;
  // Kaiming-uniform with a = √5: U(±1/√fan_in), fan_in = the last dimension; divided by `divisor`.
  Parameter linear(const std::string& name, int64_t out, int64_t in, double divisor = 1.0) const;
  Parameter normal(const std::string& name, ParameterRole role, Shape shape, double deviation) const;
  Parameter constant(const std::string& name, ParameterRole role, Shape shape, double value) const;
  // element i = f(i); called from several threads
  Parameter from(const std::string& name, ParameterRole role, Shape shape,
                 const std::function<double(int64_t)>& f) const;
};

}  // namespace sidewinder
