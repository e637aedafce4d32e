#include "model/autograd/tape.h"

#include <utility>

#include "kernels/base/check.h"
#include "kernels/ops/add.h"

namespace sidewinder {

bool Gradients::wanted(int input) const {
  return inputs_[static_cast<size_t>(input)].tape != nullptr;
}

Tensor& Gradients::pending(int input) {
  const InputPlace& place = inputs_[static_cast<size_t>(input)];
  SIDEWINDER_ASSERT(place.tape != nullptr);
  if (place.parameter != nullptr) return place.parameter->gradient_so_far();
  return tape_.gradients_[static_cast<size_t>(place.slot)];
}

Tensor& Gradients::sum(int input) {
  const InputPlace& place = inputs_[static_cast<size_t>(input)];
  Tensor& gradient = place.tape != nullptr ? pending(input) : unread_[input];
  if (!gradient.defined()) {
    gradient = Tensor::zeros(place.shape, accumulator_of(place.dtype));
  }
  return gradient;
}

void Gradients::add(int input, Tensor gradient) {
  if (!wanted(input) || !gradient.defined()) return;
  Tensor& total = pending(input);
  if (!total.defined() && inputs_[static_cast<size_t>(input)].parameter == nullptr) {
    total = std::move(gradient);
  } else {
    ops::add_to(sum(input), gradient);
  }
}

int Tape::new_slot() {
  gradients_.emplace_back();
  return static_cast<int>(gradients_.size()) - 1;
}

Var Tape::parameter(Parameter& parameter) {
  Var var(parameter.value());
  var.parameter_ = &parameter;
  if (outer_ == nullptr) ++uses_[&parameter];
  if (!counting_only_) {
    var.tape_ = this;
    var.slot_ = -1;
  }
  return var;
}

Var Tape::frozen(Parameter& parameter) {
  Var var(parameter.value());
  var.parameter_ = &parameter;
  return var;
}

Var Tape::leaf(Tensor value) {
  Var var(std::move(value));
  if (!counting_only_) {
    var.tape_ = this;
    var.slot_ = new_slot();
  }
  return var;
}

std::vector<Var> Tape::record(const char* name, const std::vector<Var>& inputs,
                              std::vector<Tensor> outputs, Backward backward) {
  Tape* tape = nullptr;
  for (const Var& input : inputs) {
    if (!input.on_tape()) continue;
    SIDEWINDER_ASSERT(tape == nullptr || tape == input.tape());
    tape = input.tape();
  }
  std::vector<Var> results;
  results.reserve(outputs.size());
  for (Tensor& output : outputs) results.emplace_back(std::move(output));
  if (tape == nullptr) return results;

  Step step{name, {}, {}, std::move(backward)};
  for (const Var& input : inputs) {
    step.inputs.push_back({input.tape_, input.slot_, input.parameter_,
                           input.defined() ? input.value().shape() : Shape(),
                           input.defined() ? input.value().dtype() : Dtype::f32});
  }
  for (Var& result : results) {
    result.tape_ = tape;
    result.slot_ = tape->new_slot();
    step.outputs.push_back(result.slot_);
  }
  tape->steps_.push_back(std::move(step));
  return results;
}

Var Tape::record(const char* name, const std::vector<Var>& inputs, Tensor output,
                 Backward backward) {
  std::vector<Tensor> outputs;
  outputs.push_back(std::move(output));
  return record(name, inputs, std::move(outputs), std::move(backward)).front();
}

void Tape::make_again(const Var& x, std::function<Tensor()> make) {
  if (!x.on_tape() || x.tape()->outer_ != nullptr) return;
  x.value().drop_memory();
  x.tape()->steps_.push_back(
      {"make_again", {}, {}, [x = x.value(), make = std::move(make)](Gradients&) {
         x.take_memory(make());
       }});
}

void Tape::backward(const Var& loss) {
  SIDEWINDER_ASSERT(loss.value().count() == 1);
  Tensor one = Tensor::from<double>({1}, {1.0});
  // Losses are f64. A copy would be nothing in a dry run.
  if (loss.value().dtype() != Dtype::f64) one = one.to(loss.value().dtype());
  std::vector<Tensor> seeds;
  seeds.push_back(std::move(one));
  backward(std::span<const Var>(&loss, 1), std::move(seeds));
}

void Tape::backward(std::span<const Var> outputs, std::vector<Tensor> gradients) {
  SIDEWINDER_ASSERT(outputs.size() == gradients.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    SIDEWINDER_ASSERT(outputs[i].tape() == this && outputs[i].slot_ >= 0);
    gradients_[static_cast<size_t>(outputs[i].slot_)] = std::move(gradients[i]);
  }
  gradients.clear();
  while (!steps_.empty()) {
    Step step = std::move(steps_.back());
    steps_.pop_back();
    std::vector<Tensor> arrived;
    bool any = step.outputs.empty();
    for (const int slot : step.outputs) {
      arrived.push_back(std::exchange(gradients_[static_cast<size_t>(slot)], Tensor()));
      any = any || arrived.back().defined();
    }
    if (any) {
      Gradients io(*this, step.inputs, std::move(arrived));
      step.backward(io);
    }
    step.backward = nullptr;  // frees what was saved before the next step allocates
    for (const InputPlace& input : step.inputs) {
      if (input.tape != nullptr && input.parameter != nullptr) contributed(*input.parameter);
    }
  }
}

void Tape::contributed(Parameter& parameter) {
  Tape& counter = outer_ != nullptr ? *outer_ : *this;
  const int left = --counter.uses_.at(&parameter);
  SIDEWINDER_ASSERT(left >= 0);
  if (left == 0 && counter.on_ready) counter.on_ready(parameter);
}

Tensor Tape::gradient(const Var& leaf) const {
  SIDEWINDER_ASSERT(leaf.tape() == this && leaf.slot_ >= 0);
  return gradients_[static_cast<size_t>(leaf.slot_)];
}

Var recompute(const Var& x, const std::function<Var(Tape*, const Var&)>& block, Tape* tape) {
  if (tape == nullptr) return block(nullptr, Var(x.value()));
  if (tape->counting_only_) return block(tape, Var(x.value()));

  Tape counter;
  counter.counting_only_ = true;
  Tensor output = block(&counter, Var(x.value())).value();
  // Inside another recomputed block these uses are counted already.
  Tape* outermost = tape->outer_ != nullptr ? tape->outer_ : tape;
  if (outermost == tape) {
    for (const auto& [parameter, uses] : counter.uses_) tape->uses_[parameter] += uses;
  }

  // A block has at least one parameter or a differentiable input, else there is nothing to record.
  Var input = x.on_tape() ? x : tape->leaf(x.value());
  return Tape::record("recompute", {input}, std::move(output),
                      [block, saved = x.value(), outermost](Gradients& io) {
                        Tape inner;
                        inner.outer_ = outermost;
                        const Var again = inner.leaf(saved);
                        const Var result = block(&inner, again);
                        std::vector<Tensor> seeds;
                        seeds.push_back(io.output());
                        inner.backward(std::span<const Var>(&result, 1), std::move(seeds));
                        io.add(0, inner.gradient(again));
                      });
}

}  // namespace sidewinder
