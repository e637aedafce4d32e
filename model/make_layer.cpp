#include "model/make_layer.h"

#include "model/layers/attention.h"
#include "model/layers/mamba1.h"
#include "model/layers/swiglu_mlp.h"

namespace sidewinder {

std::unique_ptr<Layer> make_mixer(const std::string& name, const ModelOptions& model,
                                  const BlockOptions& options, const Initializer& initializer,
                                  double residual_divisor) {
  if (options.mixer == MixerKind::attention) {
    return std::make_unique<Attention>(name, model.width, options, model.norm_eps, initializer,
                                       residual_divisor);
  }
  return std::make_unique<Mamba1>(name, model.width, options, initializer, residual_divisor);
}

std::unique_ptr<Layer> make_feed_forward(const std::string& name, const ModelOptions& model,
                                         const BlockOptions& options,
                                         const Initializer& initializer, double residual_divisor) {
  if (options.feed_forward == FeedForwardKind::none) return nullptr;
  return std::make_unique<SwigluMlp>(name, model.width, options, initializer, residual_divisor);
}

}  // namespace sidewinder
