#pragma once
// A named trainable tensor with its gradient, and the packed copies that matrix products read.

#include <functional>
#include <string>

#include "kernels/ops/matmul.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {

// Decides weight decay and what a checkpoint converter may do with a tensor.
enum class ParameterRole : uint8_t {
  matrix,     // weights of linear layers
  embedding,  // token table, and the head when it is not tied
  conv,       // depthwise convolution weights
  norm,
  bias,
  state_space,  // A_log and D of a scan
};

constexpr bool decays(ParameterRole role) {
  return role == ParameterRole::matrix || role == ParameterRole::embedding ||
         role == ParameterRole::conv;
}

class Parameter {
 public:
  Parameter() = default;
  Parameter(std::string name, ParameterRole role, Tensor value);
  Parameter(Parameter&&) = default;
  Parameter& operator=(Parameter&&) = default;

  const std::string& name() const { return name_; }
  ParameterRole role() const { return role_; }
  const Tensor& value() const { return value_; }  // f32 master (f64 in checks)
  // The sum of all contributions since zero_gradient(); zeros if there was none.
  Tensor& gradient();
  // The same, undefined if there was none: for those who need not read it then.
  Tensor& gradient_so_far() { return gradient_; }
  // Gives its memory back, which the next contribution takes again: activations need it first.
  void zero_gradient() { gradient_ = {}; }

  // For the optimizer and for loading: the value to write to. Packed copies are made anew.
  Tensor& mutable_value();

  // The value (a matrix) packed for products in `compute`; made on first use after a change.
  const PackedWeight& packed(WeightUse use, Dtype compute);
  // Gives the memory of a packed copy back.
  void drop_packed(WeightUse use) { packed_[use == WeightUse::forward ? 0 : 1] = {}; }

 private:
  std::string name_;
  ParameterRole role_ = ParameterRole::matrix;
  Tensor value_;
  Tensor gradient_;
  PackedWeight packed_[2];
};

using ParameterVisitor = std::function<void(Parameter&)>;

}  // namespace sidewinder
