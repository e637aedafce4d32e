#include "kernels/ops/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa/cross_entropy.h"
#include "kernels/reference/linear_cross_entropy.h"

namespace sidewinder {

SIDEWINDER_DECLARE_PER_ISA(CrossEntropyKernels, cross_entropy_kernels)

namespace cpu {
namespace {

// Logits of a chunk take about 64 MiB: fewer tokens would read and write dweight too often.
constexpr int64_t kChunkLogits = int64_t{1} << 24;
constexpr int64_t kTileRows = 14;
constexpr int64_t kBlockRows = 84;  // of a matrix product
constexpr int64_t kLongestChunk = 48 * kBlockRows;
constexpr int64_t kItemsPerChunk = 16;

int64_t divide_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t round_up(int64_t value, int64_t unit) { return divide_up(value, unit) * unit; }

// Chunks of equal length, so that the last one is not far shorter than the others.
int64_t tokens_per_chunk(int64_t tokens, int64_t vocabulary) {
  const int64_t fitting = kChunkLogits / std::max<int64_t>(1, vocabulary);
  const int64_t most = std::clamp(fitting / kBlockRows * kBlockRows, kBlockRows, kLongestChunk);
  const int64_t chunks = std::max<int64_t>(1, divide_up(tokens, most));
  return round_up(divide_up(tokens, chunks), kBlockRows);
}

// The loss of a few tokens on one thread, while their logits are in its cache.
class TokenBlock {
 public:
  TokenBlock(const CrossEntropyKernels& kernels, const LinearCrossEntropyArgs& args)
      : kernels_(kernels), args_(args), vocabulary_(args.weight_forward.out) {}

  // Fills token_loss, dx and `total` of tokens [begin, end), and leaves the gradients of the logits
  // where the logits were: `logits` are the rows of these tokens.
  void run(int64_t begin, int64_t end, const Matrix& logits, double* total) const {
    multiply_in_item({.y = logits,
                      .x = matrix_of(args_.x).slice_rows(begin, end),
                      .weight = args_.weight_forward});
    for (int64_t t = begin; t < end; ++t) {
      total[t - begin] = finish_token(t, static_cast<float*>(logits.at(t - begin, 0)));
    }
    if (!args_.dx.defined()) return;
    multiply_in_item({.y = matrix_of(args_.dx).slice_rows(begin, end),
                      .x = gradient_of(logits),
                      .weight = args_.weight_backward});
  }

  // The gradient that run() leaves: rounded to bf16 where products are formed in it, in the first
  // half of every row.
  Matrix gradient_of(const Matrix& logits) const {
    Matrix gradient = logits;
    if (in_bf16()) {
      gradient.element = GemmElement::bf16;
      gradient.row_stride *= 2;
    }
    return gradient;
  }

 private:
  bool in_bf16() const { return args_.weight_forward.compute == Dtype::bf16; }

  double finish_token(int64_t token, float* logits) const {
    const int32_t target = args_.targets.data<int32_t>()[token];
    float& token_loss = args_.token_loss.data<float>()[token];
    const bool wants_gradient = args_.dx.defined();
    if (target < 0) {
      token_loss = 0;
      if (wants_gradient) std::memset(logits, 0, static_cast<size_t>(vocabulary_) * sizeof(float));
      return 0;
    }
    const CrossEntropyOptions& options = args_.options;
    const int64_t valid = options.valid_vocabulary > 0 ? options.valid_vocabulary : vocabulary_;
    const SoftmaxStatistics statistics =
        kernels_.statistics(logits, valid, static_cast<float>(options.soft_cap));
    const auto sum = static_cast<double>(statistics.sum);
    const double lse = static_cast<double>(statistics.top) + std::log(sum);
    const auto logit = static_cast<double>(logits[target]);
    const double own = lse - logit;
    token_loss = static_cast<float>(own);
    if (wants_gradient) {
      const double factor = args_.scale * (1 + 2 * options.z_loss * lse);
      const double share = options.soft_cap > 0 ? logit / options.soft_cap : 0.0;
      const double of_target = (factor * std::exp(-own) - args_.scale) * (1 - share * share);
      store_gradient(logits, valid, target, statistics.top, static_cast<float>(factor / sum),
                     static_cast<float>(of_target));
    }
    return args_.scale * (own + options.z_loss * lse * lse);
  }

  void store_gradient(float* logits, int64_t valid, int32_t target, float top, float factor,
                      float of_target) const {
    const auto soft_cap = static_cast<float>(args_.options.soft_cap);
    const auto padding = static_cast<size_t>(vocabulary_ - valid);
    if (in_bf16()) {
      auto* gradient = reinterpret_cast<uint16_t*>(logits);
      kernels_.gradient_bf16(gradient, logits, valid, top, factor, soft_cap);
      gradient[target] = Bf16(of_target).bits;
      std::memset(gradient + valid, 0, padding * sizeof(uint16_t));
    } else {
      kernels_.gradient_f32(logits, logits, valid, top, factor, soft_cap);
      logits[target] = of_target;
      std::memset(logits + valid, 0, padding * sizeof(float));
    }
  }

  const CrossEntropyKernels& kernels_;
  const LinearCrossEntropyArgs& args_;
  int64_t vocabulary_;
};

}  // namespace

void linear_cross_entropy(Stream, const LinearCrossEntropyArgs& args) {
  if (args.weight_forward.compute == Dtype::f64) return reference::linear_cross_entropy(args);
  const int64_t tokens = args.x.rows();
  const int64_t vocabulary = args.weight_forward.out;
  const int64_t chunk = std::min(tokens_per_chunk(tokens, vocabulary), tokens);
  const int64_t rows_per_item =
      std::clamp(round_up(divide_up(chunk, kItemsPerChunk), kTileRows), kTileRows, kBlockRows);
  const Tensor buffer = Tensor::empty({chunk, vocabulary}, Dtype::f32);
  const Tensor totals = Tensor::empty({tokens}, Dtype::f64);
  const TokenBlock block(cross_entropy_kernels_for_isa(), args);
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t rows = std::min(chunk, tokens - first);
    const Matrix logits = matrix_of(buffer).slice_rows(0, rows);
    parallel_ranges(rows, rows_per_item, [&](int64_t begin, int64_t end) {
      block.run(first + begin, first + end, logits.slice_rows(begin, end),
                totals.data<double>() + first + begin);
    });
    if (args.dx.defined() && args.dweight.defined()) {
      multiply_transposed(matrix_of(args.dweight), block.gradient_of(logits),
                          matrix_of(args.x).slice_rows(first, first + rows),
                          args.weight_forward.compute, true);
    }
  }
  double loss = 0;
  for (int64_t t = 0; t < tokens; ++t) loss += totals.data<double>()[t];
  args.loss.data<double>()[0] = loss;
}

}  // namespace cpu
}  // namespace sidewinder
