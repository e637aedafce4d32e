#pragma once
// The gated feed-forward: down( silu(gate(x)) · up(x) ), hidden width F. Shazeer 2020.

#include "model/init.h"
#include "model/layers/layer.h"
#include "model/options.h"

namespace sidewinder {

// F of the options: given, or 8/3 · width rounded up to a multiple of 64.
int64_t hidden_width(int64_t width, const BlockOptions& options);

class SwigluMlp final : public Layer {
 public:
  SwigluMlp(const std::string& name, int64_t width, const BlockOptions& options,
            const Initializer& initializer, double residual_divisor);

  Var forward(const Pass& pass, const Norm& norm, const Var& x) override;
  void visit(const ParameterVisitor& visitor) override;
  int64_t matrix_elements() const override;

 private:
  Parameter gate_up_, down_;
};

}  // namespace sidewinder
