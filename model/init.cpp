#include "model/init.h"

#include <cmath>

#include "kernels/base/philox.h"
#include "kernels/base/thread_pool.h"

namespace sidewinder {

Parameter Initializer::from(const std::string& name, ParameterRole role, Shape shape,
                            const std::function<double(int64_t)>& f) const {
  Tensor value = Tensor::empty(shape, dtype);
  parallel_ranges(value.count(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // Rounded to f32 in both cases, so that an f64 model is the same model.
      const float element = static_cast<float>(f(i));
      if (dtype == Dtype::f64) {
        value.data<double>()[i] = static_cast<double>(element);
      } else {
        value.data<float>()[i] = element;
      }
    }
  });
  return Parameter(name, role, std::move(value));
}

Parameter Initializer::uniform(const std::string& name, ParameterRole role, Shape shape,
                               double bound) const {
  const Philox random(seed, name);
  return from(name, role, shape, [&](int64_t i) {
    return bound * (2.0 * random.uniform(static_cast<uint64_t>(i)) - 1.0);
  });
}

Parameter Initializer::linear(const std::string& name, int64_t out, int64_t in,
                              double divisor) const {
  return uniform(name, ParameterRole::matrix, {out, in},
                 1.0 / (std::sqrt(static_cast<double>(in)) * divisor));
}

Parameter Initializer::normal(const std::string& name, ParameterRole role, Shape shape,
                              double deviation) const {
  const Philox random(seed, name);
  return from(name, role, shape, [&](int64_t i) {
    return deviation * random.normal(static_cast<uint64_t>(i));
  });
}

Parameter Initializer::constant(const std::string& name, ParameterRole role, Shape shape,
                                double value) const {
  return from(name, role, shape, [value](int64_t) { return value; });
}

}  // namespace sidewinder
