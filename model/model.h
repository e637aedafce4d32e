#pragma once
// The hybrid language model: token embedding, blocks in the order of the layer pattern, final norm,
// output layer fused with the loss. Each block adds mixer(norm(x)) and, unless it has none,
// feed_forward(norm(x)) to the residual stream, which is f32 whatever the type of the activations.

#include <memory>
#include <vector>

#include "kernels/tensor/sequence_layout.h"
#include "model/init.h"
#include "model/layers/layer.h"
#include "model/options.h"

namespace sidewinder {

// What is carried from call to call in generation: one state per block, and the place in the text.
struct GenerationState {
  std::vector<BlockState> blocks;
  int64_t position = 0;
};

// The two layouts of a batch: isolation can be switched off for attention and for states alone.
struct Layouts {
  SequenceLayout attention;
  SequenceLayout state;
};

class HybridModel {
 public:
  HybridModel(const ModelOptions& options, const Initializer& initializer);

  struct LossOptions {
    double scale = 1.0;  // 1 / targets of the whole step
    double z_loss = 0.0;
    bool recompute = false;  // blocks keep only their input and run again in the backward pass
    int64_t chunk = 0;       // of loss_and_gradients: tokens of a row computed at once; 0: all
    bool before_update = false;  // the weights change before the next pass: see Tape::drops_packed
  };
  // Of rows that go on with documents of earlier rows, as carried rows of the layouts do.
  struct Lanes {
    const LaneStates* before = nullptr;  // what carried rows start from
    LaneStates* after = nullptr;         // what rows leave, if wanted; outlives the backward pass
  };
  // `tape` null: losses only. tokens, targets i32 [T].
  LossOut loss(Tape* tape, Dtype dtype, const Layouts& layouts, const Tensor& tokens,
               const Tensor& targets, const LossOptions& options, const Lanes& lanes);
  LossOut loss(Tape* tape, Dtype dtype, const Layouts& layouts, const Tensor& tokens,
               const Tensor& targets, const LossOptions& options) {
    return loss(tape, dtype, layouts, tokens, targets, options, {});
  }

  struct StepLoss {
    double loss = 0;
    Tensor token_loss;  // [T]
  };
  // loss() and its backward pass: adds to the gradients of the parameters. With a chunk the
  // activations of that many tokens of each row exist at a time, and of the others the states at
  // the edges of chunks; the gradients are the same but for rounding, and all but the last chunk
  // run forward twice.
  StepLoss loss_and_gradients(Dtype dtype, const Layouts& layouts, const Tensor& tokens,
                              const Tensor& targets, const LossOptions& options,
                              const Lanes& lanes);

  // Logits [T, V] f32 (f64) of every token, in inference.
  Tensor logits(Dtype dtype, const Layouts& layouts, const Tensor& tokens);

  // Reads `tokens` after what `state` has seen and returns the logits [V] of the token that
  // follows. The cost per token of windowed hybrids does not depend on what came before.
  Tensor next_logits(Dtype dtype, const std::vector<int32_t>& tokens, GenerationState& state);
  // The same, returning the loss [T] of every token's target.
  Tensor next_losses(Dtype dtype, const std::vector<int32_t>& tokens,
                     const std::vector<int32_t>& targets, GenerationState& state);

  // Of the attention blocks of a letter: what they see, and how they turn positions. Error{user}
  // for letters that are not used or have no attention.
  const BlockContext& block_context(char letter) const;
  // Takes effect with the next forward pass, so call it between steps, and start generation anew.
  //   BlockContext context = model.block_context('w');
  //   context.window = 1024;
  //   model.set_block_context('w', context);
  void set_block_context(char letter, const BlockContext& context);

  void visit(const ParameterVisitor& visitor);
  int64_t num_parameters();
  // FLOPs of forward and backward: 6 per matrix element and token (the output layer included), and
  // 12·H·P per visible (query, key) pair; scans, norms and recompute count as none.
  double training_flops(const SequenceLayout& attention_layout, int64_t tokens) const;
  const ModelOptions& options() const { return options_; }

 private:
  struct Block {
    char letter;
    Parameter mixer_norm;
    std::unique_ptr<Layer> mixer;
    Parameter feed_forward_norm;
    std::unique_ptr<Layer> feed_forward;  // may be null
  };

  // The first block of the letter, which must have attention.
  const Block& attention_block(char letter) const;
  Var run_block(Block& block, const Pass& pass, const Var& x);
  static Pass pass_of(Tape* tape, Dtype dtype, const Layouts& layouts);
  // Embedding to final norm.
  Var hidden(Pass pass, const Tensor& tokens, bool recompute_blocks, GenerationState* state,
             const Lanes& lanes);
  // Final norm of `tokens` read after what `state` has seen.
  Var continued(Dtype dtype, const std::vector<int32_t>& tokens, GenerationState& state);
  CrossEntropyOptions loss_options(double z_loss) const;
  Tensor head_logits(const Tensor& x);
  Parameter& head() { return options_.tied_embeddings ? embedding_ : head_; }

  ModelOptions options_;
  Parameter embedding_;
  std::vector<Block> blocks_;
  Parameter final_norm_;
  Parameter head_;  // unused when tied
  RopeTables rope_tables_;
};

}  // namespace sidewinder
