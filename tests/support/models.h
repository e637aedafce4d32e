#pragma once
// Small models of every kind, and batches made of given documents.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/model.h"

namespace sidewinder::testing {

// Width 32, vocabulary 37, untied unless said; letters: m mamba1, w attention window 5 (4/2 heads of
// 8), f full attention with QK-norm and no feed-forward.
ModelOptions tiny_options(const std::string& layers, bool tied = true);
HybridModel tiny_model(const std::string& layers, Dtype dtype, bool tied = true);

std::vector<int32_t> random_tokens(int64_t count, int32_t vocabulary, uint64_t seed);

// Loss (sum over targets) and the gradient of every parameter by name, all as f64.
struct LossAndGradients {
  double loss = 0;
  std::map<std::string, Tensor> gradients;
};
// Documents packed one after the other into one row.
LossAndGradients packed_loss(HybridModel& model, Dtype dtype,
                             const std::vector<std::vector<int32_t>>& documents,
                             bool recompute = false);
// Every document in a row of its own; sums over documents.
LossAndGradients unpacked_loss(HybridModel& model, Dtype dtype,
                               const std::vector<std::vector<int32_t>>& documents);

}  // namespace sidewinder::testing
