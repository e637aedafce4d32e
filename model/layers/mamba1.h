#pragma once
// The Mamba-1 mixer (Gu & Dao 2023), E = expand · D channels, N states, R = dt_rank:
//   [x | z] = in_proj(u)          x = silu(causal_conv(x))       [r | B | C] = x_proj(x)
//   y = scan(x, dt_proj · r, −exp(A_log), B, C, D, gate z, dt_bias)      out = out_proj(y)

#include "model/init.h"
#include "model/layers/layer.h"
#include "model/options.h"

namespace sidewinder {

class Mamba1 final : public Layer {
 public:
  // `residual_divisor` scales the output projection's initial values.
  Mamba1(const std::string& name, int64_t width, const BlockOptions& options,
         const Initializer& initializer, double residual_divisor);

  Var forward(const Pass& pass, const Norm& norm, const Var& x) override;
  void visit(const ParameterVisitor& visitor) override;
  int64_t matrix_elements() const override;

 private:
  int64_t inner_;
  int64_t state_;
  int64_t dt_rank_;
  Parameter in_proj_, conv_weight_, conv_bias_, x_proj_, dt_proj_, dt_bias_, a_log_, d_, out_proj_;
};

}  // namespace sidewinder
