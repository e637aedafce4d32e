#include "tests/support/models.h"

#include "kernels/base/philox.h"

namespace sidewinder::testing {

ModelOptions tiny_options(const std::string& layers, bool tied) {
  ModelOptions options;
  options.width = 32;
  options.vocabulary = 37;
  options.layers = layers;
  options.tied_embeddings = tied;
  BlockOptions mamba;
  mamba.state = 4;
  BlockOptions window;
  window.mixer = MixerKind::attention;
  window.pattern = PatternKind::window;
  window.window = 5;
  window.heads = 4;
  window.key_value_heads = 2;
  window.head_width = 8;
  BlockOptions full = window;
  full.pattern = PatternKind::full;
  full.window = 0;
  full.qk_norm = true;
  full.feed_forward = FeedForwardKind::none;
  const std::map<std::string, BlockOptions> all = {{"m", mamba}, {"w", window}, {"f", full}};
  for (const char letter : layers) {
    const std::string key(1, letter);
    if (letter != ' ') options.blocks[key] = all.at(key);
  }
  return options;
}

HybridModel tiny_model(const std::string& layers, Dtype dtype, bool tied) {
  return HybridModel(tiny_options(layers, tied), Initializer{.seed = 7, .dtype = dtype});
}

std::vector<int32_t> random_tokens(int64_t count, int32_t vocabulary, uint64_t seed) {
  const Philox random(seed, "tokens");
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(
        random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(vocabulary))));
  }
  return tokens;
}

LossAndGradients packed_loss(HybridModel& model, Dtype dtype,
                             const std::vector<std::vector<int32_t>>& documents, bool recompute) {
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  std::vector<int32_t> starts;
  for (const std::vector<int32_t>& document : documents) {
    starts.push_back(static_cast<int32_t>(tokens.size()));
    for (size_t i = 0; i < document.size(); ++i) {
      tokens.push_back(document[i]);
      targets.push_back(i + 1 < document.size() ? document[i + 1] : -1);
    }
  }
  const int64_t count = static_cast<int64_t>(tokens.size());
  const SequenceLayout layout = SequenceLayout::packed(1, count, starts);
  model.visit([](Parameter& parameter) { parameter.zero_gradient(); });
  Tape tape;
  const LossOut out = model.loss(&tape, dtype, {layout, layout}, Tensor::from<int32_t>({count}, tokens),
                                 Tensor::from<int32_t>({count}, targets),
                                 {.scale = 1.0, .z_loss = 0.0, .recompute = recompute});
  tape.backward(out.loss);
  LossAndGradients result;
  result.loss = out.loss.value().at(0);
  model.visit([&](Parameter& parameter) {
    result.gradients[parameter.name()] = parameter.gradient().to(Dtype::f64);
  });
  return result;
}

LossAndGradients unpacked_loss(HybridModel& model, Dtype dtype,
                               const std::vector<std::vector<int32_t>>& documents) {
  LossAndGradients sum;
  for (const std::vector<int32_t>& document : documents) {
    LossAndGradients one = packed_loss(model, dtype, {document});
    sum.loss += one.loss;
    for (auto& [name, gradient] : one.gradients) {
      Tensor& total = sum.gradients[name];
      if (!total.defined()) {
        total = gradient;
        continue;
      }
      for (int64_t i = 0; i < total.count(); ++i) {
        total.data<double>()[i] += gradient.data<double>()[i];
      }
    }
  }
  return sum;
}

}  // namespace sidewinder::testing
