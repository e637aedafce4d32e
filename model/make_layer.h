#pragma once
// From options to layers: the one place that knows all kinds.

#include <memory>
#include <string>

#include "model/init.h"
#include "model/layers/layer.h"
#include "model/options.h"

namespace sidewinder {

std::unique_ptr<Layer> make_mixer(const std::string& name, const ModelOptions& model,
                                  const BlockOptions& options, const Initializer& initializer,
                                  double residual_divisor);
// Null for FeedForwardKind::none.
std::unique_ptr<Layer> make_feed_forward(const std::string& name, const ModelOptions& model,
                                         const BlockOptions& options,
                                         const Initializer& initializer, double residual_divisor);

}  // namespace sidewinder
