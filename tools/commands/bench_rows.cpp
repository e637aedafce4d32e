// Benchmarks of kernels that work row by row or element by element: they are limited by memory.

#include <algorithm>
#include <cmath>

#include "kernels/ops/adamw.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/norm_sq.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/swiglu.h"
#include "tools/commands/kernel_benchmark.h"

namespace sidewinder {
namespace {

constexpr int64_t kTokens = 16384;
constexpr int64_t kWidth = 768;
constexpr float kEps = 1e-5F;
constexpr double kMemoryBar = 0.9;  // of the copy bandwidth

double error_limit(Dtype dtype) { return dtype == Dtype::bf16 ? 4e-3 : 1e-6; }

// Bytes of [kTokens, width] of each type.
double bytes(int64_t width, std::initializer_list<Dtype> types) {
  double sum = 0;
  for (const Dtype type : types) {
    sum += static_cast<double>(kTokens * width) * static_cast<double>(size_of(type));
  }
  return sum;
}

std::string shape_text(int64_t width) { return fmt::format("{} x {}", kTokens, width); }

struct NormGradients {
  Tensor dx, dweight;
};

NormGradients norm_backward(Dtype x_type, Dtype dtype) {
  const Tensor x = benchmark_tensor({33, 100}, Dtype::f32, 1).to(x_type);
  const Tensor weight = benchmark_tensor({100}, Dtype::f32, 2).to(accumulator_of(x_type));
  const Tensor dy = benchmark_tensor({33, 100}, Dtype::bf16, 3).to(dtype);
  const Tensor rstd = ops::rms_norm(x, weight, kEps, dtype).rstd;
  NormGradients out{{}, Tensor::zeros({100}, accumulator_of(x_type))};
  ops::rms_norm_backward(out.dx, out.dweight, dy, x, weight, rstd, x_type);
  return out;
}

// The shapes of a block: the residual stream is f32, what goes into the layer bf16 (or f32).
KernelBenchmark norm_forward(Dtype dtype) {
  return {
      .kernel = "rms_norm forward",
      .shape = shape_text(kWidth),
      .compute = dtype,
      .unit = WorkUnit::bytes,
      .work = bytes(kWidth, {Dtype::f32, dtype}),
      .bar = kMemoryBar,
      .largest_error = error_limit(dtype),
      .check =
          [dtype] {
            const Tensor x = benchmark_tensor({33, 100}, Dtype::f32, 1);
            const Tensor weight = benchmark_tensor({100}, Dtype::f32, 2);
            return benchmark_error(
                ops::rms_norm(x, weight, kEps, dtype).y,
                ops::rms_norm(x.to(Dtype::f64), weight.to(Dtype::f64), kEps, Dtype::f64).y);
          },
      .prepare =
          [dtype] {
            return [x = benchmark_tensor({kTokens, kWidth}, Dtype::f32, 1),
                    weight = benchmark_tensor({kWidth}, Dtype::f32, 2),
                    dtype] { ops::rms_norm(x, weight, kEps, dtype); };
          },
  };
}

KernelBenchmark norm_backward(Dtype dtype) {
  return {
      .kernel = "rms_norm backward",
      .shape = shape_text(kWidth),
      .compute = dtype,
      .unit = WorkUnit::bytes,
      // dy and x are read, dx is read and written.
      .work = bytes(kWidth, {dtype, Dtype::f32, Dtype::f32, Dtype::f32}),
      .bar = kMemoryBar,
      .largest_error = 1e-5,
      .check =
          [dtype] {
            const NormGradients actual = norm_backward(Dtype::f32, dtype);
            const NormGradients exact = norm_backward(Dtype::f64, Dtype::f64);
            return std::max(benchmark_error(actual.dx, exact.dx),
                            benchmark_error(actual.dweight, exact.dweight));
          },
      .prepare =
          [dtype] {
            const Tensor x = benchmark_tensor({kTokens, kWidth}, Dtype::f32, 1);
            const Tensor weight = benchmark_tensor({kWidth}, Dtype::f32, 2);
            return [x, weight, rstd = ops::rms_norm(x, weight, kEps, dtype).rstd,
                    dy = benchmark_tensor({kTokens, kWidth}, dtype, 3),
                    dx = Tensor::zeros({kTokens, kWidth}, Dtype::f32),
                    dweight = Tensor::zeros({kWidth}, Dtype::f32)]() mutable {
              ops::rms_norm_backward(dx, dweight, dy, x, weight, rstd, Dtype::f32);
            };
          },
  };
}

KernelBenchmark swiglu_forward(Dtype dtype) {
  constexpr int64_t kFeedForward = 2048;
  return {
      .kernel = "swiglu forward",
      .shape = shape_text(kFeedForward),
      .compute = dtype,
      .unit = WorkUnit::bytes,
      .work = bytes(kFeedForward, {dtype, dtype, dtype}),
      .bar = kMemoryBar,
      .largest_error = error_limit(dtype),
      .check =
          [dtype] {
            const Tensor gate_up = benchmark_tensor({9, 202}, dtype, 1);
            return benchmark_error(ops::swiglu(gate_up), ops::swiglu(gate_up.to(Dtype::f64)));
          },
      .prepare =
          [dtype] {
            return [gate_up = benchmark_tensor({kTokens, 2 * kFeedForward}, dtype, 1)] {
              ops::swiglu(gate_up);
            };
          },
  };
}

KernelBenchmark swiglu_backward(Dtype dtype) {
  constexpr int64_t kFeedForward = 2048;
  return {
      .kernel = "swiglu backward",
      .shape = shape_text(kFeedForward),
      .compute = dtype,
      .unit = WorkUnit::bytes,
      .work = bytes(kFeedForward, {dtype, dtype, dtype, dtype, dtype}),
      .bar = kMemoryBar,
      .largest_error = error_limit(dtype),
      .check =
          [dtype] {
            const Tensor gate_up = benchmark_tensor({9, 202}, dtype, 1);
            const Tensor dy = benchmark_tensor({9, 101}, dtype, 2);
            return benchmark_error(ops::swiglu_backward(dy, gate_up),
                                   ops::swiglu_backward(dy.to(Dtype::f64), gate_up.to(Dtype::f64)));
          },
      .prepare =
          [dtype] {
            return [gate_up = benchmark_tensor({kTokens, 2 * kFeedForward}, dtype, 1),
                    dy = benchmark_tensor({kTokens, kFeedForward}, dtype, 2)] {
              ops::swiglu_backward(dy, gate_up);
            };
          },
  };
}

Tensor benchmark_ids(int64_t tokens, int64_t vocabulary) {
  Tensor ids = Tensor::empty({tokens}, Dtype::i32);
  for (int64_t t = 0; t < tokens; ++t) {
    ids.data<int32_t>()[t] = static_cast<int32_t>(t * 7919 % vocabulary);
  }
  return ids;
}

KernelBenchmark embedding_forward(Dtype dtype) {
  return {
      .kernel = "embedding forward",
      .shape = shape_text(kWidth),
      .compute = dtype,
      .unit = WorkUnit::bytes,
      .work = bytes(kWidth, {Dtype::f32, dtype}),
      .largest_error = error_limit(dtype),
      .check =
          [dtype] {
            const Tensor table = benchmark_tensor({50, 33}, Dtype::f32, 1);
            const Tensor ids = benchmark_ids(100, 50);
            return benchmark_error(ops::embedding(ids, table, dtype),
                                   ops::embedding(ids, table.to(Dtype::f64), Dtype::f64));
          },
      .prepare =
          [dtype] {
            return
                [table = benchmark_tensor({16384, kWidth}, Dtype::f32, 1),
                 ids = benchmark_ids(kTokens, 16384), dtype] { ops::embedding(ids, table, dtype); };
          },
  };
}

KernelBenchmark embedding_backward(Dtype dtype) {
  return {
      .kernel = "embedding backward",
      .shape = shape_text(kWidth),
      .compute = dtype,
      .unit = WorkUnit::bytes,
      .work = bytes(kWidth, {dtype, Dtype::f32, Dtype::f32}),
      .largest_error = 1e-6,
      .check =
          [dtype] {
            const Tensor ids = benchmark_ids(100, 50);
            const Tensor dy = benchmark_tensor({100, 33}, dtype, 1);
            Tensor actual = Tensor::zeros({50, 33}, Dtype::f32);
            Tensor exact = Tensor::zeros({50, 33}, Dtype::f64);
            ops::embedding_backward(actual, dy, ids);
            ops::embedding_backward(exact, dy.to(Dtype::f64), ids);
            return benchmark_error(actual, exact);
          },
      .prepare =
          [dtype] {
            return [dtable = Tensor::zeros({16384, kWidth}, Dtype::f32),
                    dy = benchmark_tensor({kTokens, kWidth}, dtype, 1),
                    ids = benchmark_ids(kTokens, 16384)]() mutable {
              ops::embedding_backward(dtable, dy, ids);
            };
          },
  };
}

struct AdamwState {
  Tensor weight, m, v, gradient;
};

AdamwState adamw_state(int64_t count, Dtype dtype) {
  return {benchmark_tensor({count}, Dtype::f32, 1).to(dtype), Tensor::zeros({count}, dtype),
          Tensor::zeros({count}, dtype), benchmark_tensor({count}, Dtype::f32, 2).to(dtype)};
}

KernelBenchmark adamw_step() {
  constexpr int64_t kParameters = int64_t{16} << 20;
  constexpr AdamwCoefficients kCoefficients = {.learning_rate = 1e-3, .weight_decay = 0.1};
  return {
      .kernel = "adamw",
      .shape = fmt::format("{}", kParameters),
      .compute = Dtype::f32,
      .unit = WorkUnit::bytes,
      .work = 28.0 * kParameters,  // four read, three written
      .bar = kMemoryBar,
      .largest_error = 1e-6,
      .check =
          [=] {
            AdamwState actual = adamw_state(1000, Dtype::f32);
            AdamwState exact = adamw_state(1000, Dtype::f64);
            for (AdamwState* s : {&actual, &exact}) {
              ops::adamw(s->weight, s->m, s->v, s->gradient, kCoefficients);
            }
            return std::max({benchmark_error(actual.weight, exact.weight),
                             benchmark_error(actual.m, exact.m),
                             benchmark_error(actual.v, exact.v)});
          },
      .prepare =
          [=] {
            return [s = adamw_state(kParameters, Dtype::f32), kCoefficients]() mutable {
              ops::adamw(s.weight, s.m, s.v, s.gradient, kCoefficients);
            };
          },
  };
}

KernelBenchmark gradient_norm() {
  constexpr int64_t kParameters = int64_t{32} << 20;
  return {
      .kernel = "norm_sq",
      .shape = fmt::format("{}", kParameters),
      .compute = Dtype::f32,
      .unit = WorkUnit::bytes_read,
      .work = 4.0 * kParameters,
      .bar = kMemoryBar,
      .largest_error = 1e-12,
      .check =
          [] {
            const Tensor x = benchmark_tensor({70001}, Dtype::f32, 1);
            const double exact = ops::norm_sq(x.to(Dtype::f64));
            return std::abs(ops::norm_sq(x) - exact) / exact;
          },
      .prepare =
          [] { return [x = benchmark_tensor({kParameters}, Dtype::f32, 1)] { ops::norm_sq(x); }; },
  };
}

}  // namespace

std::vector<KernelBenchmark> row_benchmarks() {
  std::vector<KernelBenchmark> all;
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    all.push_back(norm_forward(dtype));
    all.push_back(norm_backward(dtype));
    all.push_back(swiglu_forward(dtype));
    all.push_back(swiglu_backward(dtype));
    all.push_back(embedding_forward(dtype));
    all.push_back(embedding_backward(dtype));
  }
  all.push_back(adamw_step());
  all.push_back(gradient_norm());
  return all;
}

}  // namespace sidewinder
