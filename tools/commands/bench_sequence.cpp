// Benchmarks of kernels that mix tokens: attention, selective scan, causal convolution.

#include <algorithm>
#include <cmath>

#include "kernels/ops/attention.h"
#include "kernels/ops/causal_conv.h"
#include "kernels/ops/selective_scan.h"
#include "tools/commands/kernel_benchmark.h"

namespace sidewinder {
namespace {

constexpr int64_t kTokens = 4096;

struct AttentionCase {
  Tensor q, k, v, dout;
  SequenceLayout layout;
  AttentionPattern pattern;
  float scale;
};

// Grouped queries in the small shape only: the timed shape is the one of the studies.
AttentionCase make_attention(int64_t tokens, int64_t heads, int64_t groups, int64_t width,
                             int64_t window, Dtype dtype, Dtype operands) {
  const auto make = [&](int64_t count, uint64_t seed) {
    return benchmark_tensor({tokens, count, width}, operands, seed).to(dtype);
  };
  return {make(heads, 1),
          make(groups, 2),
          make(groups, 3),
          make(heads, 4),
          SequenceLayout::unpacked(1, tokens),
          AttentionPattern{window},
          1.0F / std::sqrt(static_cast<float>(width))};
}

ops::AttentionOut forward(const AttentionCase& c) {
  return ops::attention(c.q, c.k, c.v, c.layout, c.pattern, c.scale);
}

ops::AttentionGradients backward(const AttentionCase& c, const ops::AttentionOut& out) {
  return ops::attention_backward(c.dout, c.q, c.k, c.v, out.out, out.lse, c.layout, c.pattern,
                                 c.scale);
}

double attention_error(int64_t window, Dtype dtype, bool gradients) {
  const AttentionCase actual = make_attention(150, 4, 2, 64, window, dtype, dtype);
  const AttentionCase exact = make_attention(150, 4, 2, 64, window, Dtype::f64, dtype);
  const ops::AttentionOut out = forward(actual);
  const ops::AttentionOut exact_out = forward(exact);
  if (!gradients) {
    return std::max(benchmark_error(out.out, exact_out.out),
                    benchmark_error(out.lse, exact_out.lse));
  }
  const ops::AttentionGradients g = backward(actual, out);
  const ops::AttentionGradients e = backward(exact, exact_out);
  return std::max(
      {benchmark_error(g.dq, e.dq), benchmark_error(g.dk, e.dk), benchmark_error(g.dv, e.dv)});
}

KernelBenchmark attention(int64_t window, Dtype dtype, bool gradients) {
  constexpr int64_t kHeads = 8, kWidth = 64;
  KernelBenchmark benchmark;
  benchmark.kernel = gradients ? "attention backward" : "attention forward";
  benchmark.shape = fmt::format("{} x {} x {} {}", kTokens, kHeads, kWidth,
                                window == 0 ? "full" : fmt::format("window {}", window));
  benchmark.compute = dtype;
  benchmark.unit = WorkUnit::flops;
  // Useful work only: two products forward and five backward, over the visible pairs.
  const auto pairs = static_cast<double>(AttentionPattern{window}.pairs(kTokens));
  benchmark.work = (gradients ? 10.0 : 4.0) * kHeads * kWidth * pairs;
  benchmark.bar = gradients ? 0.6 : (window != 0 ? 0.66 : (dtype == Dtype::bf16 ? 0.74 : 0.8));
  benchmark.largest_error = dtype == Dtype::bf16 ? (gradients ? 1e-2 : 5e-3) : 1e-5;
  benchmark.check = [window, dtype, gradients] {
    return attention_error(window == 0 ? 0 : 40, dtype, gradients);
  };
  benchmark.prepare = [window, dtype, gradients]() -> std::function<void()> {
    const AttentionCase c = make_attention(kTokens, kHeads, kHeads, kWidth, window, dtype, dtype);
    if (!gradients) return [c] { forward(c); };
    return [c, out = forward(c)] { backward(c, out); };
  };
  return benchmark;
}

struct ScanCase {
  SelectiveScanInputs in;
  SequenceLayout layout;
  Tensor dout, da, dd, ddelta_bias;
};

ScanCase make_scan(int64_t tokens, int64_t channels, int64_t states, Dtype dtype, Dtype operands) {
  const Dtype parameter = accumulator_of(dtype);
  const auto activation = [&](int64_t width, uint64_t seed) {
    return benchmark_tensor({tokens, width}, operands, seed).to(dtype);
  };
  ScanCase c;
  c.in.u = activation(channels, 1);
  c.in.delta = activation(channels, 2);
  c.in.b = activation(states, 3);
  c.in.c = activation(states, 4);
  c.in.z = activation(channels, 5);
  Tensor a = Tensor::empty({channels, states}, Dtype::f32);
  for (int64_t i = 0; i < a.count(); ++i)
    a.data<float>()[i] = -1.0F - static_cast<float>(i % states);
  Tensor bias = Tensor::empty({channels}, Dtype::f32);
  std::fill_n(bias.data<float>(), channels, -4.0F);  // steps of about 0.02, as initialised
  c.in.a = a.to(parameter);
  c.in.d = benchmark_tensor({channels}, Dtype::f32, 6).to(parameter);
  c.in.delta_bias = bias.to(parameter);
  c.layout = SequenceLayout::unpacked(1, tokens);
  c.dout = activation(channels, 7);
  c.da = Tensor::zeros({channels, states}, parameter);
  c.dd = Tensor::zeros({channels}, parameter);
  c.ddelta_bias = Tensor::zeros({channels}, parameter);
  return c;
}

ops::SelectiveScanOut forward(const ScanCase& c) {
  return ops::selective_scan(c.in, c.layout, true, false);
}

SelectiveScanGradients backward(ScanCase& c, const Tensor& chunk_states) {
  return ops::selective_scan_backward(c.da, c.dd, c.ddelta_bias, c.dout, c.in, chunk_states,
                                      c.layout);
}

double scan_error(Dtype dtype, bool gradients) {
  ScanCase actual = make_scan(150, 37, 16, dtype, dtype);
  ScanCase exact = make_scan(150, 37, 16, Dtype::f64, dtype);
  const ops::SelectiveScanOut out = forward(actual);
  const ops::SelectiveScanOut exact_out = forward(exact);
  if (!gradients) return benchmark_error(out.out, exact_out.out);
  const SelectiveScanGradients g = backward(actual, out.chunk_states);
  const SelectiveScanGradients e = backward(exact, exact_out.chunk_states);
  return std::max({benchmark_error(g.du, e.du), benchmark_error(g.ddelta, e.ddelta),
                   benchmark_error(g.db, e.db), benchmark_error(g.dc, e.dc),
                   benchmark_error(g.dz, e.dz), benchmark_error(actual.da, exact.da),
                   benchmark_error(actual.dd, exact.dd),
                   benchmark_error(actual.ddelta_bias, exact.ddelta_bias)});
}

KernelBenchmark scan(Dtype dtype, bool gradients) {
  constexpr int64_t kChannels = 1536, kStates = 16;
  KernelBenchmark benchmark;
  benchmark.kernel = gradients ? "selective_scan backward" : "selective_scan forward";
  benchmark.shape = fmt::format("{} x {} x {}", kTokens, kChannels, kStates);
  benchmark.compute = dtype;
  benchmark.unit = WorkUnit::state_steps;
  benchmark.work = static_cast<double>(kTokens * kChannels * kStates);
  if (gradients) {
    benchmark.most_times = 2.5;
    benchmark.other = "forward";
    benchmark.prepare_other = [dtype]() -> std::function<void()> {
      return [c = make_scan(kTokens, kChannels, kStates, dtype, dtype)] { forward(c); };
    };
  } else {
    benchmark.bar = 9.5e9;
  }
  benchmark.largest_error = dtype == Dtype::bf16 ? 1e-2 : 1e-5;
  benchmark.check = [dtype, gradients] { return scan_error(dtype, gradients); };
  benchmark.prepare = [dtype, gradients]() -> std::function<void()> {
    ScanCase c = make_scan(kTokens, kChannels, kStates, dtype, dtype);
    if (!gradients) return [c] { forward(c); };
    return [c, states = forward(c).chunk_states]() mutable { backward(c, states); };
  };
  return benchmark;
}

// The recurrence alone is what more states cost: softplus, gate, D and resets are paid per channel.
KernelBenchmark bare_scan(Dtype dtype) {
  constexpr int64_t kChannels = 1536, kStates = 16, kMore = 32;
  const auto run_of = [dtype](int64_t states) {
    return [c = make_scan(kTokens, kChannels, states, dtype, dtype)] {
      ops::selective_scan(c.in, c.layout, /*want_chunk_states=*/false, /*want_final_state=*/false);
    };
  };
  KernelBenchmark benchmark = scan(dtype, false);
  benchmark.kernel = "selective_scan bare recurrence";
  benchmark.shape = fmt::format("{} x {} x {} + {}", kTokens, kChannels, kStates, kMore);
  benchmark.work = static_cast<double>(kTokens * kChannels * kMore);
  benchmark.bar = 11e9;
  benchmark.prepare = [=]() -> std::function<void()> { return run_of(kStates + kMore); };
  benchmark.other = "16 states";
  benchmark.prepare_other = [=]() -> std::function<void()> { return run_of(kStates); };
  benchmark.beyond_other = true;
  return benchmark;
}

struct ConvCase {
  Tensor x, weight, bias, dy, dweight, dbias;
  SequenceLayout layout;
};

ConvCase make_conv(int64_t tokens, int64_t channels, Dtype dtype, Dtype operands) {
  const Dtype parameter = accumulator_of(dtype);
  return {benchmark_tensor({tokens, channels}, operands, 1).to(dtype),
          benchmark_tensor({channels, 4}, Dtype::f32, 2).to(parameter),
          benchmark_tensor({channels}, Dtype::f32, 3).to(parameter),
          benchmark_tensor({tokens, channels}, operands, 4).to(dtype),
          Tensor::zeros({channels, 4}, parameter),
          Tensor::zeros({channels}, parameter),
          SequenceLayout::unpacked(1, tokens)};
}

Tensor forward(const ConvCase& c) { return ops::causal_conv(c.x, c.weight, c.bias, c.layout).y; }

Tensor backward(ConvCase& c) {
  return ops::causal_conv_backward(c.dweight, c.dbias, c.dy, c.x, c.weight, c.bias, c.layout).dx;
}

double conv_error(Dtype dtype, bool gradients) {
  ConvCase actual = make_conv(150, 37, dtype, dtype);
  ConvCase exact = make_conv(150, 37, Dtype::f64, dtype);
  if (!gradients) return benchmark_error(forward(actual), forward(exact));
  const double error = benchmark_error(backward(actual), backward(exact));
  return std::max({error, benchmark_error(actual.dweight, exact.dweight),
                   benchmark_error(actual.dbias, exact.dbias)});
}

KernelBenchmark conv(Dtype dtype, bool gradients) {
  constexpr int64_t kChannels = 1536;
  KernelBenchmark benchmark;
  benchmark.kernel = gradients ? "causal_conv backward" : "causal_conv forward";
  benchmark.shape = fmt::format("{} x {} x 4", kTokens, kChannels);
  benchmark.compute = dtype;
  benchmark.unit = WorkUnit::bytes;
  benchmark.work = (gradients ? 3.0 : 2.0) * static_cast<double>(kTokens * kChannels) *
                   static_cast<double>(size_of(dtype));
  benchmark.bar = 0.9;
  benchmark.largest_error = dtype == Dtype::bf16 ? 5e-3 : 1e-5;
  benchmark.check = [dtype, gradients] { return conv_error(dtype, gradients); };
  benchmark.prepare = [dtype, gradients]() -> std::function<void()> {
    ConvCase c = make_conv(kTokens, kChannels, dtype, dtype);
    if (!gradients) return [c] { forward(c); };
    return [c]() mutable { backward(c); };
  };
  return benchmark;
}

}  // namespace

std::vector<KernelBenchmark> sequence_benchmarks() {
  std::vector<KernelBenchmark> all;
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    for (const bool gradients : {false, true}) {
      for (const int64_t window : {512, 0}) all.push_back(attention(window, dtype, gradients));
      if (!gradients) all.push_back(bare_scan(dtype));
      all.push_back(scan(dtype, gradients));
      all.push_back(conv(dtype, gradients));
    }
  }
  return all;
}

}  // namespace sidewinder
