#include "kernels/ops/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa/cross_entropy.h"
#include "kernels/reference/linear_cross_entropy.h"

namespace sidewinder {

SIDEWINDER_DECLARE_PER_ISA(CrossEntropyKernels, cross_entropy_kernels)

namespace cpu {
namespace {

// Logits of a chunk take about 64 MiB: fewer tokens would read and write dweight too often.
constexpr int64_t kChunkLogits = int64_t{1} << 24;
constexpr int64_t kChunkUnit = 84;  // rows of a GEMM block
constexpr int64_t kLongestChunk = 48 * kChunkUnit;

int64_t divide_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// Chunks of equal length, so that the last one is no stub.
int64_t tokens_per_chunk(int64_t tokens, int64_t vocabulary) {
  const int64_t most =
      std::clamp(kChunkLogits / std::max<int64_t>(1, vocabulary) / kChunkUnit * kChunkUnit,
                 kChunkUnit, kLongestChunk);
  const int64_t chunks = std::max<int64_t>(1, divide_up(tokens, most));
  return divide_up(divide_up(tokens, chunks), kChunkUnit) * kChunkUnit;
}

struct TokenLoss {
  double own = 0;    // lse − logit of the target
  double total = 0;  // with scale and z-loss
};

// Turns the logits of one token into their gradient (when wanted) and returns its loss.
TokenLoss finish_row(const CrossEntropyKernels& kernels, float* logits, int64_t vocabulary,
                     int32_t target, const LinearCrossEntropyArgs& args) {
  const bool wants_gradient = args.dx.defined();
  if (target < 0) {
    if (wants_gradient) std::memset(logits, 0, static_cast<size_t>(vocabulary) * sizeof(float));
    return {};
  }
  const CrossEntropyOptions& options = args.options;
  const int64_t valid = options.valid_vocabulary > 0 ? options.valid_vocabulary : vocabulary;
  const auto soft_cap = static_cast<float>(options.soft_cap);
  const SoftmaxStatistics statistics = kernels.statistics(logits, valid, soft_cap);
  const double lse =
      static_cast<double>(statistics.top) + std::log(static_cast<double>(statistics.sum));
  const auto logit = static_cast<double>(logits[target]);
  TokenLoss loss;
  loss.own = lse - logit;
  loss.total = args.scale * (loss.own + options.z_loss * lse * lse);
  if (!wants_gradient) return loss;

  const double factor = args.scale * (1 + 2 * options.z_loss * lse);
  kernels.gradient(logits, valid, statistics.top,
                   static_cast<float>(factor / static_cast<double>(statistics.sum)), soft_cap);
  const double share = options.soft_cap > 0 ? logit / options.soft_cap : 0.0;
  logits[target] =
      static_cast<float>((factor * std::exp(-loss.own) - args.scale) * (1 - share * share));
  std::memset(logits + valid, 0, static_cast<size_t>(vocabulary - valid) * sizeof(float));
  return loss;
}

}  // namespace

void linear_cross_entropy(Stream stream, const LinearCrossEntropyArgs& args) {
  if (args.weight_forward.compute == Dtype::f64) return reference::linear_cross_entropy(args);
  const CrossEntropyKernels& kernels = cross_entropy_kernels_for_isa();
  const int64_t tokens = args.x.rows();
  const int64_t vocabulary = args.weight_forward.out;
  const int64_t chunk = tokens_per_chunk(tokens, vocabulary);
  const Tensor buffer = Tensor::empty({std::min(chunk, tokens), vocabulary}, Dtype::f32);
  const Tensor losses = Tensor::empty({std::min(chunk, tokens)}, Dtype::f64);
  const int32_t* targets = args.targets.data<int32_t>();
  const Tensor none;
  double loss = 0;
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t rows = std::min(chunk, tokens - first);
    const Tensor x = args.x.slice_rows(first, first + rows);
    Tensor logits = buffer.slice_rows(0, rows);
    linear(stream, {logits, x, args.weight_forward, none, none, false});
    parallel_for(rows, [&](int64_t row) {
      const TokenLoss token = finish_row(kernels, logits.data<float>() + row * vocabulary,
                                         vocabulary, targets[first + row], args);
      args.token_loss.data<float>()[first + row] = static_cast<float>(token.own);
      losses.data<double>()[row] = token.total;
    });
    for (int64_t row = 0; row < rows; ++row) loss += losses.data<double>()[row];
    if (!args.dx.defined()) continue;
    Tensor dx = args.dx.slice_rows(first, first + rows);
    linear(stream, {dx, logits, args.weight_backward, none, none, false});
    if (args.dweight.defined()) {
      weight_gradient(stream, {args.dweight, logits, x, args.weight_forward.compute, true});
    }
  }
  args.loss.data<double>()[0] = loss;
}

}  // namespace cpu
}  // namespace sidewinder
