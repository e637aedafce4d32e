#include "model/model.h"

#include <cmath>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/ops/matmul.h"
#include "model/layer_pattern.h"
#include "model/make_layer.h"

namespace sidewinder {

HybridModel::HybridModel(const ModelOptions& options, const Initializer& initializer)
    : options_(options) {
  SIDEWINDER_REQUIRE(options.width > 0 && options.vocabulary > 0,
                     "model.width is {} and model.vocabulary is {}; both must be positive",
                     options.width, options.vocabulary);
  const std::string letters = expand_layers(options);
  // Output projections start smaller, so that the residual stream's variance does not grow with
  // depth: GPT-2's rule, as in the Mamba reference.
  int64_t additions = 0;
  for (const char letter : letters) {
    const BlockOptions& block = options.blocks.at(std::string(1, letter));
    additions += block.feed_forward == FeedForwardKind::none ? 1 : 2;
  }
  const double divisor = std::sqrt(static_cast<double>(additions));

  embedding_ = initializer.normal("embedding.weight", ParameterRole::embedding,
                                  {options.vocabulary, options.width}, 0.02);
  for (size_t i = 0; i < letters.size(); ++i) {
    const BlockOptions& block_options = options.blocks.at(std::string(1, letters[i]));
    const std::string name = "blocks." + std::to_string(i);
    Block block;
    block.letter = letters[i];
    block.mixer_norm = initializer.constant(name + ".mixer_norm.weight", ParameterRole::norm,
                                            {options.width}, 1.0);
    block.mixer = make_mixer(name + ".mixer", options, block_options, initializer, divisor);
    block.feed_forward =
        make_feed_forward(name + ".feed_forward", options, block_options, initializer, divisor);
    if (block.feed_forward) {
      block.feed_forward_norm = initializer.constant(name + ".feed_forward_norm.weight",
                                                     ParameterRole::norm, {options.width}, 1.0);
    }
    blocks_.push_back(std::move(block));
  }
  final_norm_ =
      initializer.constant("final_norm.weight", ParameterRole::norm, {options.width}, 1.0);
  if (!options.tied_embeddings) {
    head_ = initializer.normal("head.weight", ParameterRole::embedding,
                               {options.vocabulary, options.width}, 0.02);
  }
}

Var HybridModel::run_block(Block& block, const Pass& pass, const Var& x) {
  const double eps = options_.norm_eps;
  Var y = block.mixer->forward(pass, {block.mixer_norm, eps}, x);
  if (block.feed_forward) {
    y = block.feed_forward->forward(pass, {block.feed_forward_norm, eps}, y);
  }
  return y;
}

Var HybridModel::hidden(Pass pass, const Tensor& tokens, bool recompute_blocks,
                        GenerationState* state, const Lanes& lanes) {
  if (lanes.before != nullptr) SIDEWINDER_ASSERT(lanes.before->size() == blocks_.size());
  if (lanes.after != nullptr) lanes.after->resize(blocks_.size());
  pass.rope_tables = &rope_tables_;
  Var x = embedding(tokens, pass(embedding_), accumulator_of(pass.dtype));
  for (size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    pass.state = state != nullptr ? &state->blocks[i] : nullptr;
    pass.before = lanes.before != nullptr ? &(*lanes.before)[i] : nullptr;
    pass.after = lanes.after != nullptr ? &(*lanes.after)[i] : nullptr;
    if (recompute_blocks && pass.tape != nullptr) {
      x = recompute(
          x,
          [this, &block, pass](Tape* tape, const Var& input) {
            Pass inner = pass;
            inner.tape = tape;
            return run_block(block, inner, input);
          },
          pass.tape);
    } else {
      x = run_block(block, pass, x);
    }
  }
  return rms_norm(x, pass(final_norm_), options_.norm_eps, pass.dtype);
}

Pass HybridModel::pass_of(Tape* tape, Dtype dtype, const Layouts& layouts) {
  Pass pass;
  pass.tape = tape;
  pass.dtype = dtype;
  pass.attention_layout = std::make_shared<const SequenceLayout>(layouts.attention);
  pass.state_layout = std::make_shared<const SequenceLayout>(layouts.state);
  return pass;
}

LossOut HybridModel::loss(Tape* tape, Dtype dtype, const Layouts& layouts, const Tensor& tokens,
                          const Tensor& targets, const LossOptions& options, const Lanes& lanes) {
  const Pass pass = pass_of(tape, dtype, layouts);
  const Var x = hidden(pass, tokens, options.recompute, nullptr, lanes);
  return linear_cross_entropy(x, pass(head()), targets, options.scale,
                              loss_options(options.z_loss));
}

CrossEntropyOptions HybridModel::loss_options(double z_loss) const {
  CrossEntropyOptions options;
  options.z_loss = z_loss;
  options.soft_cap = options_.logit_soft_cap;
  return options;
}

Tensor HybridModel::head_logits(const Tensor& x) {
  const Dtype compute = x.dtype();
  Tensor result =
      ops::linear(x, head().packed(WeightUse::forward, compute), accumulator_of(compute));
  if (options_.logit_soft_cap > 0) {
    const double cap = options_.logit_soft_cap;
    for (int64_t i = 0; i < result.count(); ++i) {
      const double capped = cap * std::tanh(result.at(i) / cap);
      if (result.dtype() == Dtype::f64) {
        result.data<double>()[i] = capped;
      } else {
        result.data<float>()[i] = static_cast<float>(capped);
      }
    }
  }
  return result;
}

Tensor HybridModel::logits(Dtype dtype, const Layouts& layouts, const Tensor& tokens) {
  const Pass pass = pass_of(nullptr, dtype, layouts);
  return head_logits(hidden(pass, tokens, false, nullptr, {}).value());
}

Var HybridModel::continued(Dtype dtype, const std::vector<int32_t>& tokens,
                           GenerationState& state) {
  SIDEWINDER_ASSERT(!tokens.empty());
  state.blocks.resize(blocks_.size());
  const int64_t count = static_cast<int64_t>(tokens.size());
  Pass pass;
  pass.dtype = dtype;
  pass.attention_layout = std::make_shared<const SequenceLayout>(
      SequenceLayout::continuation(1, count, state.position));
  pass.state_layout = pass.attention_layout;
  Var x = hidden(pass, Tensor::from<int32_t>({count}, tokens), false, &state, {});
  state.position += count;
  return x;
}

Tensor HybridModel::next_logits(Dtype dtype, const std::vector<int32_t>& tokens,
                                GenerationState& state) {
  const Tensor x = continued(dtype, tokens, state).value();
  return head_logits(x.slice_rows(x.size(0) - 1, x.size(0))).reshape({options_.vocabulary});
}

Tensor HybridModel::next_losses(Dtype dtype, const std::vector<int32_t>& tokens,
                                const std::vector<int32_t>& targets, GenerationState& state) {
  const Var x = continued(dtype, tokens, state);
  return linear_cross_entropy(x, Tape::frozen(head()),
                              Tensor::from<int32_t>({x.value().size(0)}, targets), 1.0,
                              loss_options(0.0))
      .token_loss;
}

const HybridModel::Block& HybridModel::attention_block(char letter) const {
  for (const Block& block : blocks_) {
    if (block.letter != letter) continue;
    SIDEWINDER_REQUIRE(block.mixer->context() != nullptr,
                       "block \"{}\" has no attention, so it has no window and no positions; name "
                       "a block with mixer = \"attention\"",
                       letter);
    return block;
  }
  fail_user("no block of the model has the letter \"{}\"; model.layers is \"{}\"", letter,
            options_.layers);
}

const BlockContext& HybridModel::block_context(char letter) const {
  return *attention_block(letter).mixer->context();
}

void HybridModel::set_block_context(char letter, const BlockContext& context) {
  if (attention_block(letter).mixer->context()->rope != context.rope) rope_tables_ = {};
  for (Block& block : blocks_) {
    if (block.letter == letter) block.mixer->set_context(context);
  }
}

void HybridModel::visit(const ParameterVisitor& visitor) {
  visitor(embedding_);
  for (Block& block : blocks_) {
    visitor(block.mixer_norm);
    block.mixer->visit(visitor);
    if (block.feed_forward) {
      visitor(block.feed_forward_norm);
      block.feed_forward->visit(visitor);
    }
  }
  visitor(final_norm_);
  if (!options_.tied_embeddings) visitor(head_);
}

int64_t HybridModel::num_parameters() {
  int64_t total = 0;
  visit([&](Parameter& parameter) { total += parameter.value().count(); });
  return total;
}

double HybridModel::training_flops(const SequenceLayout& attention_layout, int64_t tokens) const {
  double elements = static_cast<double>(options_.vocabulary * options_.width);
  double pairs = 0;
  for (const Block& block : blocks_) {
    elements += static_cast<double>(block.mixer->matrix_elements());
    if (block.feed_forward) elements += static_cast<double>(block.feed_forward->matrix_elements());
    if (block.mixer->pair_elements() == 0) continue;
    const std::vector<int32_t>& starts = attention_layout.document_starts;
    const int32_t* const position = attention_layout.position.data<int32_t>();
    int64_t visible = 0;
    for (size_t i = 0; i < starts.size(); ++i) {
      const int64_t end = i + 1 < starts.size() ? starts[i + 1] : attention_layout.tokens();
      // Pairs of a document that goes on are those of the whole less those of the part before.
      const int64_t row = starts[i] / attention_layout.row_length;
      const bool goes_on =
          starts[i] % attention_layout.row_length == 0 && attention_layout.is_carried(row);
      const int64_t before = goes_on ? position[starts[i]] : 0;
      visible += block.mixer->pattern().pairs(before + end - starts[i]) -
                 block.mixer->pattern().pairs(before);
    }
    pairs += static_cast<double>(block.mixer->pair_elements()) * static_cast<double>(visible);
  }
  return 6.0 * (elements * static_cast<double>(tokens) + pairs);
}

}  // namespace sidewinder
