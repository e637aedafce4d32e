#pragma once
// The tape: backward steps in the order of the forward pass, replayed from the end. A differentiable
// function computes its outputs and records one step that says how to go back; what that step
// captures is what is saved, and it is freed as soon as the step has run.

#include <functional>
#include <map>
#include <span>
#include <vector>

#include "kernels/tensor/tensor.h"
#include "model/autograd/parameter.h"

namespace sidewinder {

class Tape;

// A Tensor with (or, in inference, without) a place on a Tape.
class Var {
 public:
  Var() = default;
  explicit Var(Tensor value) : value_(std::move(value)) {}  // a constant

  const Tensor& value() const { return value_; }
  bool defined() const { return value_.defined(); }
  bool on_tape() const { return tape_ != nullptr; }
  Tape* tape() const { return tape_; }
  // The Parameter this Var is the value of, or null.
  Parameter* parameter() const { return parameter_; }

 private:
  friend class Tape;
  Tensor value_;
  Tape* tape_ = nullptr;
  int slot_ = -1;
  Parameter* parameter_ = nullptr;
};

// What a step remembers of one of its inputs; the value itself is not kept.
struct InputPlace {
  Tape* tape = nullptr;
  int slot = -1;
  Parameter* parameter = nullptr;
  Shape shape;
  Dtype dtype = Dtype::f32;
};

// What a backward step reads and writes.
class Gradients {
 public:
  // The gradient of output i; undefined if the loss does not depend on it. It belongs to the step,
  // which may pass it on with add() or overwrite it.
  const Tensor& output(int i = 0) const { return outputs_[static_cast<size_t>(i)]; }
  bool wanted(int input) const;
  // Adds to the gradient of an input. The tensor is handed over: the step must not use it for
  // anything else afterwards.
  void add(int input, Tensor gradient);
  // The gradient of an input so far, possibly undefined; the step may define it or add to it. Saves
  // a pass where a kernel can add to what is there, or need not read what is not.
  Tensor& pending(int input);
  // As pending(), but zeros of the input's shape and `accumulator_of` its type if it is undefined.
  // For a Parameter this is its gradient; for an input that needs none, a buffer nobody reads.
  Tensor& sum(int input);

 private:
  friend class Tape;
  Gradients(Tape& tape, const std::vector<InputPlace>& inputs, std::vector<Tensor> outputs)
      : tape_(tape), inputs_(inputs), outputs_(std::move(outputs)) {}
  Tape& tape_;
  const std::vector<InputPlace>& inputs_;
  std::vector<Tensor> outputs_;
  std::map<int, Tensor> unread_;
};

class Tape {
 public:
  using Backward = std::function<void(Gradients&)>;

  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Called once per Parameter during backward(), after its last contribution (tied weights have
  // several).
  std::function<void(Parameter&)> on_ready;
  // Nobody reads the packed weights of the forward pass again before the weights change: products
  // drop them after use, before the activations are at their most.
  bool drops_packed = false;

  Var parameter(Parameter& parameter);
  // The value of a Parameter in inference: no tape, but its packed copies are used.
  static Var frozen(Parameter& parameter);
  // A differentiable input whose gradient can be asked for afterwards.
  Var leaf(Tensor value);

  // Records a step if any input is on a tape; the outputs are then on it too.
  static std::vector<Var> record(const char* name, const std::vector<Var>& inputs,
                                 std::vector<Tensor> outputs, Backward backward);
  static Var record(const char* name, const std::vector<Var>& inputs, Tensor output,
                    Backward backward);

  // Gives the memory of x back, which functions before this have kept; the backward pass takes it
  // again when it comes back to them, with what `make` returns, which must be the same. For results
  // that take much memory and little time. Does nothing in recomputed blocks, whose backward pass
  // begins at once.
  static void make_again(const Var& x, std::function<Tensor()> make);

  // Replays from a scalar (gradient 1), or from several outputs with given gradients. Consumes the
  // tape.
  void backward(const Var& loss);
  void backward(std::span<const Var> outputs, std::vector<Tensor> gradients);
  // Of a leaf, after backward(); undefined if nothing depended on it.
  Tensor gradient(const Var& leaf) const;

  size_t num_steps() const { return steps_.size(); }

 private:
  friend class Gradients;
  friend Var recompute(const Var& x, const std::function<Var(Tape*, const Var&)>& block, Tape* tape);

  struct Step {
    const char* name;
    std::vector<InputPlace> inputs;
    std::vector<int> outputs;
    Backward backward;
  };

  int new_slot();
  void contributed(Parameter& parameter);

  std::vector<Step> steps_;
  std::vector<Tensor> gradients_;         // by slot
  std::map<Parameter*, int> uses_;        // contributions still to come
  bool counting_only_ = false;            // forward of a recomputed block: uses are noted, no steps
  Tape* outer_ = nullptr;                 // of a recomputed block: where uses are counted
};

// Activation checkpointing: runs `block` without keeping anything but `x`, and again on a tape of its
// own when the gradient arrives. `block` must do the same both times.
Var recompute(const Var& x, const std::function<Var(Tape*, const Var&)>& block, Tape* tape);

}  // namespace sidewinder
