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
  const std::vector<Var> constants(inputs.begin(), inputs.end());
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
  leaves.reserve(inputs.size());
  for (const Tensor& input : inputs) leaves.push_back(tape.leaf(input));
  const std::vector<Var> outputs = function(leaves);
  const std::vector<Tensor> weights = output_weights(outputs);
  std::vector<Tensor> seeds;
  seeds.reserve(weights.size());
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

std::vector<GradientCase> gradient_cases(Dtype dtype, CaseSize size) {
  const bool small = size == CaseSize::small;
  // Documents of length 1, one that ends with its row, one that spans a row; borders around the
  // edges of tiles and chunks.
  const int64_t row_length = small ? 11 : 193;
  const std::vector<int32_t> starts =
      small ? std::vector<int32_t>{0, 3, 4, 11, 19}
            : std::vector<int32_t>{0, 63, 64, 65, 128, 193, 200, 321};
  const SequenceLayout layout = SequenceLayout::packed(2, row_length, starts);
  const int64_t tokens = layout.tokens();
  const int64_t width = small ? 4 : 72;
  const int64_t head = small ? 6 : 32;
  const int64_t channels = small ? 2 : 48;
  const int64_t states = small ? 3 : 16;
  const int64_t vocabulary = small ? 7 : 301;

  std::vector<GradientCase> cases;
  struct Input {
    Shape shape;
    bool weight;
    double deviation = 1.0;
  };
  const auto add_case = [&](std::string name, DifferentiableFunction function,
                            const std::vector<Input>& inputs) {
    GradientCase made{std::move(name), std::move(function), {}, {}};
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Tensor value = normal(inputs[i].shape, made.name + std::to_string(i),
                                  inputs[i].deviation);
      const Dtype stored = inputs[i].weight ? accumulator_of(dtype) : dtype;
      made.inputs.push_back(value.to(stored).to(Dtype::f64));
      made.is_weight.push_back(inputs[i].weight ? 1 : 0);
    }
    cases.push_back(std::move(made));
  };
  const auto type = [](const Var& var) { return var.value().dtype(); };

  std::vector<int32_t> id_list;
  for (int64_t t = 0; t < tokens; ++t) id_list.push_back(static_cast<int32_t>(t * t % 5));
  const Tensor ids = Tensor::from<int32_t>({tokens}, id_list);
  add_case("embedding",
           [ids, type](const std::vector<Var>& in) {
             return std::vector<Var>{embedding(ids, in[0], type(in[0]))};
           },
           {{{5, width}, true}});
  add_case("rms_norm",
           [type](const std::vector<Var>& in) {
             return std::vector<Var>{rms_norm(in[0], in[1], 1e-5, type(in[0]))};
           },
           {{{tokens, width + 3}, false}, {{width + 3}, true}});
  add_case("rms_norm of heads",
           [type, tokens, width](const std::vector<Var>& in) {
             return std::vector<Var>{
                 rms_norm(reshape(in[0], {tokens, 2, width}), in[1], 1e-5, type(in[0]))};
           },
           {{{tokens, 2 * width}, false}, {{width}, true}});
  add_case("linear",
           [](const std::vector<Var>& in) { return std::vector<Var>{linear(in[0], in[1])}; },
           {{{tokens, width}, false}, {{width - 1, width}, true}});
  add_case("linear_add",
           [type](const std::vector<Var>& in) {
             // The residual is used twice, so that gradients join.
             return std::vector<Var>{
                 linear_add(rms_norm(in[0], in[2], 1e-5, type(in[0])), in[1], in[0])};
           },
           {{{tokens, width}, false}, {{width, width}, true}, {{width}, true}});
  add_case("add",
           [](const std::vector<Var>& in) {
             return std::vector<Var>{add(in[0], in[1]), add(in[0], in[0])};
           },
           {{{tokens, width}, false}, {{tokens, width}, false}});
  add_case("split",
           [width](const std::vector<Var>& in) {
             const std::array<int64_t, 3> widths = {2, 1, width};
             std::vector<Var> parts = split(in[0], widths);
             return std::vector<Var>{parts[2], parts[0]};  // one part unused
           },
           {{{tokens, width + 3}, false}});
  add_case("rms_norm_linear",
           [type](const std::vector<Var>& in) {
             // The input is used twice, so that gradients join.
             return std::vector<Var>{
                 add(rms_norm_linear(in[0], in[1], 1e-5, in[2], type(in[0])), in[0])};
           },
           {{{tokens, width}, false}, {{width}, true}, {{width, width}, true}});
  add_case("swiglu_linear_add",
           [](const std::vector<Var>& in) {
             return std::vector<Var>{swiglu_linear_add(in[0], in[1], in[2])};
           },
           {{{tokens, 2 * width + 2}, false}, {{width, width + 1}, true}, {{tokens, width}, false}});
  add_case("swiglu_linear_add, gate and up of its own",
           [](const std::vector<Var>& in) {
             return std::vector<Var>{swiglu_linear_add(linear(in[0], in[1]), in[2], in[0])};
           },
           {{{tokens, width}, false}, {{2 * width + 2, width}, true}, {{width, width + 1}, true}});
  add_case("rope in place of a product",
           [layout, tokens, head, type](const std::vector<Var>& in) {
             const RopeOptions options{.head_width = head, .rotary_width = head, .base = 100.0};
             const RopeTable table =
                 ops::rope_table(options, layout.row_length, accumulator_of(type(in[0])));
             const Var turned = reshape(linear(in[0], in[1]), {tokens, 2, head});
             return std::vector<Var>{rope_in_place(turned, layout.position, table)};
           },
           {{{tokens, width}, false}, {{2 * head, width}, true}});
  for (const bool interleaved : {false, true}) {
    add_case(interleaved ? "rope, interleaved, partial" : "rope, half-split, partial",
             [interleaved, layout, tokens, head, type](const std::vector<Var>& in) {
               const RopeOptions options{.head_width = head,
                                         .rotary_width = head - 2,
                                         .base = 100.0,
                                         .interleaved = interleaved};
               const RopeTable table =
                   ops::rope_table(options, layout.row_length, accumulator_of(type(in[0])));
               return std::vector<Var>{
                   rope(reshape(in[0], {tokens, 2, head}), layout.position, table)};
             },
             {{{tokens, 2 * head}, false}});
  }
  add_case(
      "rope, yarn",
      [layout, tokens, head, type](const std::vector<Var>& in) {
        const RopeOptions options{
            .head_width = head,
            .rotary_width = head,
            .base = 100.0,
            .scaling = {.kind = RopeScalingKind::yarn, .factor = 4, .original_context = 16}};
        const RopeTable table =
            ops::rope_table(options, layout.row_length, accumulator_of(type(in[0])));
        return std::vector<Var>{rope(reshape(in[0], {tokens, 2, head}), layout.position, table)};
      },
      {{{tokens, 2 * head}, false}});
  for (const int64_t window : {int64_t{0}, small ? int64_t{3} : int64_t{40}}) {
    add_case(window == 0 ? "attention, full, 4/2 heads" : "attention, window, 4/2 heads",
             [layout, window, tokens, head](const std::vector<Var>& in) {
               return std::vector<Var>{attention(
                   reshape(in[0], {tokens, 4, head}), reshape(in[1], {tokens, 2, head}),
                   reshape(in[2], {tokens, 2, head - 2}), layout, AttentionPattern{window}, 0.3)};
             },
             {{{tokens, 4 * head}, false}, {{tokens, 2 * head}, false},
              {{tokens, 2 * (head - 2)}, false}});
  }
  add_case("causal_conv",
           [layout](const std::vector<Var>& in) {
             return std::vector<Var>{causal_conv(in[0], in[1], in[2], layout)};
           },
           {{{tokens, channels + 1}, false}, {{channels + 1, 4}, true}, {{channels + 1}, true}});
  // u, delta, a_log, b, c, d, delta_bias, z
  const std::vector<Input> scan_inputs = {
      {{tokens, channels}, false}, {{tokens, channels}, false}, {{channels, states}, true, 0.5},
      {{tokens, states}, false},   {{tokens, states}, false},   {{channels}, true},
      {{channels}, true},          {{tokens, channels}, false}};
  const auto scan_vars = [](const std::vector<Var>& in, bool gated) {
    return ScanVars{.u = in[0],
                    .delta = in[1],
                    .a_log = in[2],
                    .b = in[3],
                    .c = in[4],
                    .d = in[5],
                    .z = gated ? in[7] : Var(),
                    .delta_bias = in[6]};
  };
  for (const bool gated : {true, false}) {
    std::vector<Input> inputs = scan_inputs;
    if (!gated) inputs.pop_back();
    add_case(gated ? "selective_scan, gated" : "selective_scan, no gate",
             [layout, gated, scan_vars](const std::vector<Var>& in) {
               return std::vector<Var>{selective_scan(scan_vars(in, gated), layout)};
             },
             inputs);
  }
  const SequenceLayout carried = layout.with_carried({1, 1});
  {
    std::vector<Input> inputs = scan_inputs;
    inputs.push_back({{2, channels, states}, true});
    add_case("selective_scan, carried state",
             [carried, scan_vars](const std::vector<Var>& in) {
               CarriedState state{.initial = in[8], .want_final = true, .final_state = {}};
               const Var y = selective_scan(scan_vars(in, true), carried, &state);
               return std::vector<Var>{y, state.final_state};
             },
             inputs);
  }
  add_case("causal_conv, carried state",
           [carried](const std::vector<Var>& in) {
             CarriedState state{.initial = in[3], .want_final = true, .final_state = {}};
             const Var y = causal_conv(in[0], in[1], in[2], carried, &state);
             return std::vector<Var>{y, state.final_state};
           },
           {{{tokens, channels + 1}, false},
            {{channels + 1, 4}, true},
            {{channels + 1}, true},
            {{2, 3, channels + 1}, true}});
  add_case("gather_rows",
           [width](const std::vector<Var>& in) {
             return std::vector<Var>{
                 gather_rows({in[0], reshape(in[1], {3, 2, width / 2}), in[0]},
                             {{0, 1, 4, 2}, {1, 0, 0, 3}, {0, 0, 7, 1}}, 9)};
           },
           {{{4, 2, width / 2}, false}, {{3, width}, false}});
  std::vector<int32_t> target_list;
  for (int64_t t = 0; t < tokens; ++t) {
    target_list.push_back(t % 5 == 2 ? -1 : static_cast<int32_t>((t * 7 + 6) % vocabulary));
  }
  const Tensor targets = Tensor::from<int32_t>({tokens}, target_list);
  for (const double cap : {0.0, 1.5}) {
    add_case(cap == 0 ? "linear_cross_entropy, z-loss" : "linear_cross_entropy, z-loss, soft cap",
             [targets, cap](const std::vector<Var>& in) {
               CrossEntropyOptions options;
               options.z_loss = 0.01;
               options.soft_cap = cap;
               return std::vector<Var>{
                   linear_cross_entropy(in[0], in[1], targets, 0.25, options).loss};
             },
             {{{tokens, width}, false}, {{vocabulary, width}, true, 0.3}});
  }
  add_case("recompute",
           [layout, head, type](const std::vector<Var>& in) {
             const RopeTable table = ops::rope_table({.head_width = head, .rotary_width = head},
                                                     layout.row_length, accumulator_of(type(in[0])));
             return std::vector<Var>{recompute(
                 in[0],
                 [position = layout.position, table](Tape*, const Var& x) {
                   return rope(add(x, x), position, table);
                 },
                 in[0].tape())};
           },
           {{{tokens, 2, head}, false}});
  return cases;
}

namespace {

// Outputs, then gradients of all inputs, as f64.
std::vector<Tensor> run_case(const GradientCase& gradient_case, Dtype dtype) {
  Tape tape;
  std::vector<Var> leaves;
  for (size_t i = 0; i < gradient_case.inputs.size(); ++i) {
    const Dtype stored = gradient_case.is_weight[i] != 0 ? accumulator_of(dtype) : dtype;
    leaves.push_back(tape.leaf(gradient_case.inputs[i].to(stored)));
  }
  const std::vector<Var> outputs = gradient_case.function(leaves);
  std::vector<Tensor> weights = output_weights(outputs);
  std::vector<Tensor> results;
  std::vector<Tensor> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    results.push_back(outputs[i].value().to(Dtype::f64));
    // The same incoming gradients in both types: rounded to the coarser one.
    seeds.push_back(weights[i].to(Dtype::bf16).to(outputs[i].value().dtype()));
  }
  tape.backward(outputs, std::move(seeds));
  for (const Var& leaf : leaves) {
    const Tensor gradient = tape.gradient(leaf);
    results.push_back(gradient.defined() ? gradient.to(Dtype::f64)
                                         : Tensor::zeros(leaf.value().shape(), Dtype::f64));
  }
  return results;
}

}  // namespace

double rounding_error(const GradientCase& gradient_case, Dtype dtype) {
  const std::vector<Tensor> exact = run_case(gradient_case, Dtype::f64);
  const std::vector<Tensor> actual = run_case(gradient_case, dtype);
  double worst = 0;
  for (size_t k = 0; k < exact.size(); ++k) {
    double gap = 0;
    double norm = 0;
    for (int64_t i = 0; i < exact[k].count(); ++i) {
      const double difference = actual[k].at(i) - exact[k].at(i);
      gap += difference * difference;
      norm += exact[k].at(i) * exact[k].at(i);
    }
    const double error = norm == 0 ? std::sqrt(gap) : std::sqrt(gap / norm);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

}  // namespace sidewinder
