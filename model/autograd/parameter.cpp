#include "model/autograd/parameter.h"

#include <utility>

namespace sidewinder {

Parameter::Parameter(std::string name, ParameterRole role, Tensor value)
    : name_(std::move(name)), role_(role), value_(std::move(value)) {}

Tensor& Parameter::gradient() {
  if (!gradient_.defined()) {
    gradient_ = Tensor::zeros(value_.shape(), value_.dtype(), value_.device());
  }
  return gradient_;
}

Tensor& Parameter::mutable_value() {
  packed_[0] = {};
  packed_[1] = {};
  return value_;
}

const PackedWeight& Parameter::packed(WeightUse use, Dtype compute) {
  PackedWeight& packed = packed_[use == WeightUse::forward ? 0 : 1];
  if (!packed.defined() || packed.compute != compute) {
    packed = ops::pack_weight(value_, use, compute);
  }
  return packed;
}

}  // namespace sidewinder
