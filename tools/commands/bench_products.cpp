// Benchmarks of matrix products and of the fused output layer: they are limited by arithmetic.

#include <algorithm>

#include "kernels/ops/linear_cross_entropy.h"
#include "kernels/ops/matmul.h"
#include "tools/commands/kernel_benchmark.h"

namespace sidewinder {
namespace {

struct Product {
  int64_t tokens, in, out;
  bool thin;
};

constexpr Product kProducts[] = {
    {8192, 256, 1024, false},  {4096, 512, 2048, false},  {4096, 768, 3072, false},
    {2048, 1024, 2816, false}, {2048, 2048, 2048, false}, {4096, 1536, 80, true},  // x_proj
    {4096, 48, 1536, true},                                                        // dt_proj
};

// Shares of the peak. Of the five main shapes the mean counts, and none may be far below it.
constexpr double kMeanBar = 0.86, kWeightGradientMeanBar = 0.8, kLeastOfMean = 0.93;
constexpr double kThinBar = 0.7;

// f32 sums over k terms in any order, and one rounding of the result to bf16.
double error_limit(Dtype compute) { return compute == Dtype::bf16 ? 4e-3 : 1e-5; }

KernelBenchmark product(const Product& p, Dtype compute, const std::string& pass, double mean_bar) {
  KernelBenchmark benchmark;
  benchmark.kernel = "matmul " + pass;
  benchmark.shape = fmt::format("{} x {} -> {}", p.tokens, p.in, p.out);
  benchmark.compute = compute;
  benchmark.unit = WorkUnit::flops;
  benchmark.work = 2.0 * static_cast<double>(p.tokens * p.in * p.out);
  benchmark.bar = p.thin ? kThinBar : kLeastOfMean * mean_bar;
  benchmark.mean_bar = p.thin ? 0 : mean_bar;
  benchmark.largest_error = error_limit(compute);
  return benchmark;
}

// y = x · Wᵀ, or dx = dy · W when `use` is backward; `in` and `out` are those of the layer.
Tensor run_linear(int64_t tokens, int64_t in, int64_t out, WeightUse use, Dtype compute,
                  Dtype operands) {
  const int64_t width = use == WeightUse::forward ? in : out;
  const Tensor x = benchmark_tensor({tokens, width}, operands, 1).to(compute);
  const Tensor weight = benchmark_tensor({out, in}, operands, 2);
  const Tensor master = weight.to(accumulator_of(compute));
  return ops::linear(x, ops::pack_weight(master, use, compute), compute);
}

KernelBenchmark linear(const Product& p, WeightUse use, Dtype compute) {
  const bool forward = use == WeightUse::forward;
  KernelBenchmark benchmark = product(p, compute, forward ? "forward" : "data gradient", kMeanBar);
  benchmark.check = [use, compute] {
    return benchmark_error(run_linear(67, 150, 83, use, compute, compute),
                           run_linear(67, 150, 83, use, Dtype::f64, compute));
  };
  benchmark.prepare = [p, use, compute, forward] {
    const Tensor weight = benchmark_tensor({p.out, p.in}, Dtype::f32, 2);
    return [x = benchmark_tensor({p.tokens, forward ? p.in : p.out}, compute, 1),
            packed = ops::pack_weight(weight, use, compute),
            compute] { ops::linear(x, packed, compute); };
  };
  return benchmark;
}

Tensor run_weight_gradient(Dtype compute, Dtype operands) {
  const Tensor x = benchmark_tensor({67, 150}, operands, 1).to(compute);
  const Tensor dy = benchmark_tensor({67, 83}, operands, 2).to(compute);
  Tensor dweight = Tensor::zeros({83, 150}, accumulator_of(compute));
  ops::weight_gradient(dweight, dy, x, compute);
  return dweight;
}

KernelBenchmark weight_gradient(const Product& p, Dtype compute) {
  KernelBenchmark benchmark = product(p, compute, "weight gradient", kWeightGradientMeanBar);
  benchmark.check = [compute] {
    return benchmark_error(run_weight_gradient(compute, compute),
                           run_weight_gradient(Dtype::f64, compute));
  };
  benchmark.prepare = [p, compute] {
    return [x = benchmark_tensor({p.tokens, p.in}, compute, 1),
            dy = benchmark_tensor({p.tokens, p.out}, compute, 2),
            dweight = Tensor::zeros({p.out, p.in}, Dtype::f32),
            compute]() mutable { ops::weight_gradient(dweight, dy, x, compute); };
  };
  return benchmark;
}

struct Head {
  Tensor x, targets, dweight;
  PackedWeight forward, backward;
};

Head make_head(int64_t tokens, int64_t width, int64_t vocabulary, Dtype compute, Dtype operands) {
  // So that logits are of some units, as those of models are.
  constexpr double kDeviation = 1.0 / 32;
  const Tensor weight =
      benchmark_tensor({vocabulary, width}, operands, 2, kDeviation).to(accumulator_of(compute));
  Tensor targets = Tensor::empty({tokens}, Dtype::i32);
  for (int64_t t = 0; t < tokens; ++t) {
    targets.data<int32_t>()[t] = static_cast<int32_t>(t * 7919 % vocabulary);
  }
  return {benchmark_tensor({tokens, width}, operands, 1).to(compute), targets,
          Tensor::zeros({vocabulary, width}, accumulator_of(compute)),
          ops::pack_weight(weight, WeightUse::forward, compute),
          ops::pack_weight(weight, WeightUse::backward, compute)};
}

ops::LinearCrossEntropyOut run_head(const Head& head) {
  const double scale = 1.0 / static_cast<double>(head.targets.count());
  return ops::linear_cross_entropy(head.x, head.forward, head.backward, head.targets, scale, {},
                                   head.dweight);
}

KernelBenchmark cross_entropy(Dtype compute) {
  constexpr int64_t kTokens = 2048, kWidth = 768, kVocabulary = 16384;
  KernelBenchmark benchmark;
  benchmark.kernel = "linear_cross_entropy";
  benchmark.shape = fmt::format("{} x {} -> {}", kTokens, kWidth, kVocabulary);
  benchmark.compute = compute;
  benchmark.unit = WorkUnit::flops;
  // Logits, data gradient and weight gradient.
  benchmark.work = 6.0 * kTokens * kWidth * kVocabulary;
  // The gradient of the logits is rounded to bf16 before the products.
  benchmark.largest_error = compute == Dtype::bf16 ? 8e-3 : 1e-5;
  benchmark.check = [compute] {
    const Head actual = make_head(37, 48, 101, compute, compute);
    const Head exact = make_head(37, 48, 101, Dtype::f64, compute);
    const ops::LinearCrossEntropyOut a = run_head(actual);
    const ops::LinearCrossEntropyOut e = run_head(exact);
    return std::max({benchmark_error(a.loss, e.loss), benchmark_error(a.dx, e.dx),
                     benchmark_error(actual.dweight, exact.dweight)});
  };
  benchmark.prepare = [compute] {
    return [head = make_head(kTokens, kWidth, kVocabulary, compute, compute)] { run_head(head); };
  };
  // Its three products, of logits and gradients that lie in memory.
  benchmark.most_times = 1.1;
  benchmark.other = "its products";
  benchmark.prepare_other = [compute] {
    return [head = make_head(kTokens, kWidth, kVocabulary, compute, compute),
            dlogits = benchmark_tensor({kTokens, kVocabulary}, compute, 3), compute]() mutable {
      ops::linear(head.x, head.forward, compute);
      ops::linear(dlogits, head.backward, compute);
      ops::weight_gradient(head.dweight, dlogits, head.x, compute);
    };
  };
  return benchmark;
}

}  // namespace

std::vector<KernelBenchmark> product_benchmarks() {
  std::vector<KernelBenchmark> all;
  for (const Dtype compute : {Dtype::bf16, Dtype::f32}) {
    for (const Product& p : kProducts) {
      all.push_back(linear(p, WeightUse::forward, compute));
      all.push_back(linear(p, WeightUse::backward, compute));
      all.push_back(weight_gradient(p, compute));
    }
    all.push_back(cross_entropy(compute));
  }
  return all;
}

}  // namespace sidewinder
