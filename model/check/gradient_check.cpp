#include "model/check/gradient_check.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "kernels/base/philox.h"
#include "model/autograd/functions.h"

namespace sidewinder {
namespace {

Tensor normal(Shape shape, std::string_view purpose, double deviation = 1.0) {
  Tensor result = Tensor::empty(shape, Dtype::f64);
  const Philox random(17, purpose);
  for (int64_t i = 0; i < result.count(); ++i) {
    result.data<double>()[i] = deviation * random.normal(static_cast<uint64_t>(i));
  }
  return result;
}

double inner(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.count(); ++i) sum += a.at(i) * b.at(i);
  return sum;
}

std::vector<Tensor> output_weights(const std::vector<Var>& outputs) {
  std::vector<Tensor> weights;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& value = outputs[i].value();
    weights.push_back(value.count() == 1 ? Tensor::from<double>({1}, {1.0})
                                         : normal(value.shape(), "weights" + std::to_string(i)));
  }
  return weights;
}

double scalar(const DifferentiableFunction& function, const std::vector<Tensor>& inputs,
              const std::vector<Tensor>& weights) {
  std::vector<Var> constants;
  for (const Tensor& input : inputs) constants.emplace_back(input);
  const std::vector<Var> outputs = function(constants);
  double sum = 0;
  for (size_t i = 0; i < outputs.size(); ++i) sum += inner(outputs[i].value(), weights[i]);
  return sum;
}

}  // namespace

GradientError check_gradients(const DifferentiableFunction& function,
                              const std::vector<Tensor>& inputs) {
  Tape tape;
  std::vector<Var> leaves;
  for (const Tensor& input : inputs) leaves.push_back(tape.leaf(input));
  const std::vector<Var> outputs = function(leaves);
  const std::vector<Tensor> weights = output_weights(outputs);
  std::vector<Tensor> seeds;
  for (const Tensor& weight : weights) seeds.push_back(weight.clone());
  tape.backward(outputs, std::move(seeds));

  constexpr double kStep = 1e-5;
  GradientError error;
  for (size_t k = 0; k < inputs.size(); ++k) {
    const Tensor& input = inputs[k];
    Tensor analytic = tape.gradient(leaves[k]);
    if (!analytic.defined()) analytic = Tensor::zeros(input.shape(), Dtype::f64);
    SIDEWINDER_ASSERT(analytic.shape() == input.shape());
    const bool by_element = input.count() <= 64;
    const int64_t directions = by_element ? input.count() : 16;
    double gap = 0;
    double norm = 0;
    for (int64_t d = 0; d < directions; ++d) {
      Tensor direction = Tensor::zeros(input.shape(), Dtype::f64);
      if (by_element) {
        direction.data<double>()[d] = 1.0;
      } else {
        direction = normal(input.shape(), "direction" + std::to_string(d));
      }
      const auto shifted = [&](double step) {
        std::vector<Tensor> moved = inputs;
        moved[k] = input.clone();
        for (int64_t i = 0; i < input.count(); ++i) {
          moved[k].data<double>()[i] += step * direction.data<double>()[i];
        }
        return scalar(function, moved, weights);
      };
      const double numeric = (shifted(kStep) - shifted(-kStep)) / (2 * kStep);
      const double difference = inner(analytic, direction) - numeric;
      gap += difference * difference;
      norm += numeric * numeric;
    }
    const double relative = std::sqrt(gap) / std::max(std::sqrt(norm), 1e-3);
    if (!(relative <= error.worst)) error = {relative, static_cast<int>(k)};
  }
  return error;
}

std::vector<GradientCase> gradient_cases() {
  // Two rows of eleven tokens; documents of length 1, one that ends with its row, one that spans it.
  static const std::array<int32_t, 5> starts = {0, 3, 4, 11, 19};
  const SequenceLayout layout = SequenceLayout::packed(2, 11, starts);
  const int64_t tokens = layout.tokens();
  std::vector<GradientCase> cases;
  const auto add_case = [&](std::string name, DifferentiableFunction function,
                            std::vector<Tensor> inputs) {
    cases.push_back({std::move(name), std::move(function), std::move(inputs)});
  };

  const Tensor ids = Tensor::from<int32_t>({6}, {4, 0, 2, 4, 4, 1});
  add_case("embedding",
           [ids](const std::vector<Var>& in) {
             return std::vector<Var>{embedding(ids, in[0], Dtype::f64)};
           },
           {normal({5, 3}, "table")});
  add_case("rms_norm",
           [](const std::vector<Var>& in) {
             return std::vector<Var>{rms_norm(in[0], in[1], 1e-5, Dtype::f64)};
           },
           {normal({4, 7}, "x"), normal({7}, "weight")});
  add_case("rms_norm of heads",
           [](const std::vector<Var>& in) {
             return std::vector<Var>{
                 rms_norm(reshape(in[0], {3, 2, 4}), in[1], 1e-5, Dtype::f64)};
           },
           {normal({3, 8}, "x"), normal({4}, "weight")});
  add_case("linear",
           [](const std::vector<Var>& in) { return std::vector<Var>{linear(in[0], in[1])}; },
           {normal({5, 4}, "x"), normal({3, 4}, "weight")});
  add_case("linear_add",
           [](const std::vector<Var>& in) {
             // The residual is used twice, so that gradients join.
             return std::vector<Var>{
                 linear_add(rms_norm(in[0], in[2], 1e-5, Dtype::f64), in[1], in[0])};
           },
           {normal({5, 4}, "x"), normal({4, 4}, "weight"), normal({4}, "norm")});
  add_case("add",
           [](const std::vector<Var>& in) { return std::vector<Var>{add(in[0], in[1]), add(in[0], in[0])}; },
           {normal({3, 4}, "a"), normal({3, 4}, "b")});
  add_case("split",
           [](const std::vector<Var>& in) {
             const std::array<int64_t, 3> widths = {2, 1, 3};
             std::vector<Var> parts = split(in[0], widths);
             return std::vector<Var>{parts[2], parts[0]};  // one part unused
           },
           {normal({4, 6}, "x")});
  add_case("swiglu",
           [](const std::vector<Var>& in) { return std::vector<Var>{swiglu(in[0])}; },
           {normal({5, 6}, "gate_up")});
  for (const bool interleaved : {false, true}) {
    const RopeOptions options{
        .head_width = 6, .rotary_width = 4, .base = 100.0, .interleaved = interleaved};
    const RopeTable table = ops::rope_table(options, 16, Dtype::f64);
    add_case(interleaved ? "rope, interleaved, partial" : "rope, half-split, partial",
             [table, layout, tokens](const std::vector<Var>& in) {
               return std::vector<Var>{
                   rope(reshape(in[0], {tokens, 2, 6}), layout.position, table)};
             },
             {normal({tokens, 12}, "x")});
  }
  for (const int64_t window : {0, 3}) {
    add_case(window == 0 ? "attention, full, 4/2 heads" : "attention, window 3, 4/2 heads",
             [layout, window, tokens](const std::vector<Var>& in) {
               return std::vector<Var>{attention(
                   reshape(in[0], {tokens, 4, 3}), reshape(in[1], {tokens, 2, 3}),
                   reshape(in[2], {tokens, 2, 2}), layout, AttentionPattern{window}, 0.6)};
             },
             {normal({tokens, 12}, "q"), normal({tokens, 6}, "k"), normal({tokens, 4}, "v")});
  }
  add_case("causal_conv",
           [layout](const std::vector<Var>& in) {
             return std::vector<Var>{causal_conv(in[0], in[1], in[2], layout)};
           },
           {normal({tokens, 3}, "x"), normal({3, 4}, "weight"), normal({3}, "bias")});
  for (const bool gated : {true, false}) {
    add_case(gated ? "selective_scan, gated" : "selective_scan, no gate",
             [layout, gated](const std::vector<Var>& in) {
               ScanVars vars{.u = in[0],
                             .delta = in[1],
                             .a_log = in[2],
                             .b = in[3],
                             .c = in[4],
                             .d = in[5],
                             .z = gated ? in[7] : Var(),
                             .delta_bias = in[6]};
               return std::vector<Var>{selective_scan(vars, layout)};
             },
             {normal({tokens, 2}, "u"), normal({tokens, 2}, "delta"),
              normal({2, 3}, "a_log", 0.5), normal({tokens, 3}, "b"), normal({tokens, 3}, "c"),
              normal({2}, "d"), normal({2}, "delta_bias"), normal({tokens, 2}, "z")});
  }
  {
    CarriedState state{.initial = normal({2, 2, 3}, "h0"), .want_final = true, .final_state = {}};
    SequenceLayout carried = layout;
    carried.carried = {1, 1};
    add_case("selective_scan, carried state",
             [carried, state](const std::vector<Var>& in) mutable {
               ScanVars vars{.u = in[0],
                             .delta = in[1],
                             .a_log = in[2],
                             .b = in[3],
                             .c = in[4],
                             .d = in[5],
                             .z = Var(),
                             .delta_bias = in[6]};
               return std::vector<Var>{selective_scan(vars, carried, &state)};
             },
             {normal({tokens, 2}, "u"), normal({tokens, 2}, "delta"),
              normal({2, 3}, "a_log", 0.5), normal({tokens, 3}, "b"), normal({tokens, 3}, "c"),
              normal({2}, "d"), normal({2}, "delta_bias")});
  }
  const Tensor targets = Tensor::from<int32_t>({5}, {0, 6, -1, 2, 3});
  for (const double cap : {0.0, 1.5}) {
    add_case(cap == 0 ? "linear_cross_entropy, z-loss" : "linear_cross_entropy, z-loss, soft cap",
             [targets, cap](const std::vector<Var>& in) {
               CrossEntropyOptions options;
               options.z_loss = 0.01;
               options.soft_cap = cap;
               return std::vector<Var>{
                   linear_cross_entropy(in[0], in[1], targets, 0.25, options).loss};
             },
             {normal({5, 3}, "x"), normal({7, 3}, "weight")});
  }
  add_case("recompute",
           [](const std::vector<Var>& in) {
             return std::vector<Var>{
                 recompute(in[0], [](Tape*, const Var& x) { return swiglu(add(x, x)); },
                           in[0].tape())};
           },
           {normal({4, 6}, "x")});
  return cases;
}

}  // namespace sidewinder
