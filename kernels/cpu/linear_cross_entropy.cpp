#include "kernels/ops/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/base/rounding.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa/cross_entropy.h"
#include "kernels/cpu/scratch.h"
#include "kernels/reference/linear_cross_entropy.h"

namespace sidewinder {

SIDEWINDER_DECLARE_PER_ISA(CrossEntropyKernels, cross_entropy_kernels)

namespace cpu {
namespace {

// What is kept of the logits of a chunk takes about 32 MiB, but for vocabularies of more than 64
// thousand words: with fewer tokens dweight would be read and written too often, and with more the
// work space stands above all activations of a step.
constexpr int64_t kChunkBytes = int64_t{1} << 25;
// In blocks of rows of a product.
constexpr int64_t kShortestChunk = 3;
constexpr int64_t kLongestChunk = 48;
// Words whose logits exist at a time, for the tokens of one item: these, what becomes of them, and
// the operands of their products fit the second-level cache.
constexpr int64_t kBlockWords = 1024;
// All tokens of a chunk pass by a part of the vocabulary, whose two packed weights stay in the
// cache that cores share.
constexpr int64_t kPartBytes = int64_t{8} << 20;
// Above this (69 nats) a sum is taken anew, relative to the largest logit.
constexpr double kLargestSum = 1e30;

// Chunks of equal length, so that the last one is not far shorter than the others.
int64_t tokens_per_chunk(int64_t tokens, int64_t token_bytes, const GemmRows& rows) {
  const int64_t fitting = kChunkBytes / std::max<int64_t>(1, token_bytes);
  const int64_t most =
      std::clamp(fitting / rows.block_rows, kShortestChunk, kLongestChunk) * rows.block_rows;
  const int64_t chunks = std::max<int64_t>(1, divide_up(tokens, most));
  return round_up(divide_up(tokens, chunks), rows.tile_rows);
}

// Rows an odd number of cache lines apart: columns of a vocabulary that is a power of two would
// share a few sets of the caches.
Tensor rows_apart(int64_t rows, int64_t columns, Dtype dtype) {
  const int64_t line = 64 / static_cast<int64_t>(size_of(dtype));
  return Tensor::empty({rows, (divide_up(columns, line) | 1) * line}, dtype).columns(0, columns);
}

// The losses of a chunk of tokens. What is kept of logits are weights w ∝ exp(logit − reference)
// (· the slope of the soft cap), where the reference is the largest logit of the first words: with
// s ∝ factor / Σ exp(logit − reference), the gradient of a logit is s · w, for the target
// s · w − scale. So s is left out until the sum is known, and then scales the tokens:
// dx = s · (w · W), dW = wᵀ · (s · x). The target's weight is put in last, so that its difference
// is not rounded.
class Chunk {
 public:
  Chunk(const LinearCrossEntropyArgs& args, int64_t most_tokens)
      : kernels_(cross_entropy_kernels_for_isa()),
        args_(args),
        cut_(product_rows(args.weight_forward.compute)),
        vocabulary_(args.weight_forward.out),
        valid_(args.options.valid_vocabulary > 0 ? args.options.valid_vocabulary : vocabulary_),
        soft_cap_(static_cast<float>(args.options.soft_cap)),
        totals_(static_cast<size_t>(most_tokens)) {
    if (!args.dx.defined()) return;
    const Dtype compute = args.weight_forward.compute;
    weights_ = rows_apart(most_tokens, vocabulary_, compute);
    sums_ = Tensor::empty({most_tokens, args.x.width()}, Dtype::f32);
    if (args.dweight.defined()) scaled_ = Tensor::empty({most_tokens, args.x.width()}, compute);
  }

  // The loss of tokens [begin, end); fills their token_loss and dx, adds to dweight.
  double run(int64_t begin, int64_t end) {
    begin_ = begin;
    tokens_.assign(static_cast<size_t>(end - begin), Token{});
    weigh(true);
    bool all_stand = true;
    for (Token& token : tokens_) {
      token.stands = !(token.sum > kLargestSum);
      if (!token.stands) token.reference = token.top;
      all_stand = all_stand && token.stands;
    }
    if (!all_stand) weigh(false);
    for_items([&](const Range& rows) {
      for (int64_t row = rows.begin; row < rows.end; ++row) finish(row);
    });
    if (scaled_.defined()) {
      const int64_t rows = end - begin;
      multiply_transposed(matrix_of(args_.dweight), matrix_of(weights_).slice_rows(0, rows),
                          matrix_of(scaled_).slice_rows(0, rows), args_.weight_forward.compute,
                          true);
    }
    double loss = 0;
    for (int64_t row = 0; row < end - begin; ++row) loss += totals_[static_cast<size_t>(row)];
    return loss;
  }

 private:
  struct Range {
    int64_t begin, end;
  };
  struct Token {
    float reference = 0;
    float top = 0;     // the largest logit
    double sum = 0;    // of exp(logit − reference)
    double logit = 0;  // of the target
    bool stands = false;
  };

  // As many items for every thread, the longer ones first, so that threads end together. The bits
  // of a row do not depend on the rows beside it.
  template <typename Item>
  void for_items(Item&& item) const {
    const auto tokens = static_cast<int64_t>(tokens_.size());
    const int64_t tiles = divide_up(tokens, cut_.tile_rows);
    const int64_t blocks = divide_up(tokens, cut_.block_rows);
    const int64_t items =
        std::min(tiles, round_up(blocks, int64_t{ThreadPool::global().num_threads()}));
    parallel_for(items, [&](int64_t i) {
      const auto tiles_before = [&](int64_t index) {
        return tiles / items * index + std::min(index, tiles % items);
      };
      item(Range{tiles_before(i) * cut_.tile_rows,
                 std::min(tokens, tiles_before(i + 1) * cut_.tile_rows)});
    });
  }

  // Items without a token that does not stand are left as they are.
  void weigh(bool first_time) {
    const int64_t word_bytes =
        2 * args_.x.width() * static_cast<int64_t>(size_of(args_.weight_forward.compute));
    const int64_t part = std::max<int64_t>(1, kPartBytes / word_bytes / kBlockWords) * kBlockWords;
    for (int64_t word = 0; word < vocabulary_; word += part) {
      for_items([&](const Range& rows) {
        const auto stands = [](const Token& token) { return token.stands; };
        const auto first = tokens_.begin();
        if (std::all_of(first + rows.begin, first + rows.end, stands)) return;
        weigh_rows(rows, {word, std::min(vocabulary_, word + part)}, first_time);
      });
    }
  }

  void weigh_rows(const Range& rows, const Range& words, bool first_time) {
    const int64_t count = rows.end - rows.begin;
    const int64_t width = args_.x.width();
    auto* const floats = static_cast<float*>(
        outer_scratch(static_cast<size_t>(count * kBlockWords) * sizeof(float)));
    const Matrix logits = {floats, count, kBlockWords, kBlockWords, GemmElement::f32};
    for (int64_t word = words.begin; word < words.end; word += kBlockWords) {
      const int64_t end = std::min(words.end, word + kBlockWords);
      multiply_in_item({.y = logits,
                        .x = matrix_of(args_.x).slice_rows(begin_ + rows.begin, begin_ + rows.end),
                        .weight = args_.weight_forward},
                       {0, width, word, end - word});
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        const auto* raw = static_cast<const float*>(logits.at(row - rows.begin, 0));
        Token& token = tokens_[static_cast<size_t>(row)];
        if (word == 0) token.sum = 0;
        if (word == 0 && first_time) {
          token.reference = kernels_.largest(raw, std::min(end, valid_), soft_cap_);
          token.top = token.reference;
        }
        weigh_row(token, row, raw, {word, end});
      }
      if (!weights_.defined()) continue;
      multiply_in_item(
          {.y = matrix_of(sums_).slice_rows(rows.begin, rows.end),
           .x = matrix_of(weights_).slice_rows(rows.begin, rows.end).slice_columns(word, end),
           .weight = args_.weight_backward,
           .accumulate = word > 0},
          {word, end - word, 0, width});
    }
  }

  void weigh_row(Token& token, int64_t row, const float* raw, const Range& words) {
    const int64_t count = std::clamp<int64_t>(valid_ - words.begin, 0, words.end - words.begin);
    const int32_t target = args_.targets.data<int32_t>()[begin_ + row];
    const bool has_target = target >= words.begin && target < words.end;
    const auto weigh_as = [&](auto* weights, auto kernel) {
      const SoftmaxStatistics statistics = kernel(weights, raw, count, token.reference, soft_cap_);
      token.top = std::max(token.top, statistics.top);
      token.sum += static_cast<double>(statistics.sum);
      if (weights == nullptr) return;
      std::fill(weights + count, weights + (words.end - words.begin), 0);
      if (has_target) weights[target - words.begin] = 0;
    };
    if (weights_.defined() && weights_.dtype() == Dtype::bf16) {
      weigh_as(static_cast<uint16_t*>(matrix_of(weights_).at(row, words.begin)),
               kernels_.weigh_bf16);
    } else {
      weigh_as(weights_.defined() ? static_cast<float*>(matrix_of(weights_).at(row, words.begin))
                                  : nullptr,
               kernels_.weigh_f32);
    }
    if (has_target) {
      token.logit =
          static_cast<double>(kernels_.largest(raw + (target - words.begin), 1, soft_cap_));
    }
  }

  void finish(int64_t row) {
    const CrossEntropyOptions& options = args_.options;
    const Token& token = tokens_[static_cast<size_t>(row)];
    const int32_t target = args_.targets.data<int32_t>()[begin_ + row];
    const double lse = static_cast<double>(token.reference) + std::log(token.sum);
    const double own = target < 0 ? 0 : lse - token.logit;
    args_.token_loss.data<float>()[begin_ + row] = static_cast<float>(own);
    totals_[static_cast<size_t>(row)] =
        target < 0 ? 0 : args_.scale * (own + options.z_loss * lse * lse);
    if (!weights_.defined()) return;
    double factor = 0;
    if (target >= 0) {
      const double slack = 1 + 2 * options.z_loss * lse;
      const double share = options.soft_cap > 0 ? token.logit / options.soft_cap : 0.0;
      const double weight = (std::exp(-own) - 1 / slack) * (1 - share * share) * token.sum *
                            static_cast<double>(kWeightScale);
      factor = args_.scale * slack;
      put_target(target, static_cast<float>(weight), row);
    }
    scale_row(row, static_cast<float>(factor / (token.sum * static_cast<double>(kWeightScale))));
  }

  void put_target(int32_t target, float weight, int64_t row) {
    add_weight_row(static_cast<float*>(matrix_of(sums_).at(row, 0)), args_.weight_backward, target,
                   weight);
    void* const place = matrix_of(weights_).at(row, target);
    if (weights_.dtype() == Dtype::bf16) {
      *static_cast<Bf16*>(place) = Bf16(weight);
    } else {
      *static_cast<float*>(place) = weight;
    }
  }

  void scale_row(int64_t row, float factor) {
    const Matrix x = matrix_of(args_.x);
    const Matrix dx = matrix_of(args_.dx);
    kernels_.scale(dx.at(begin_ + row, 0), dx.element, matrix_of(sums_).at(row, 0),
                   GemmElement::f32, x.columns, factor);
    if (!scaled_.defined()) return;
    const Matrix scaled = matrix_of(scaled_);
    kernels_.scale(scaled.at(row, 0), scaled.element, x.at(begin_ + row, 0), x.element, x.columns,
                   factor);
  }

  const CrossEntropyKernels& kernels_;
  const LinearCrossEntropyArgs& args_;
  const GemmRows& cut_;
  int64_t vocabulary_;
  int64_t valid_;
  float soft_cap_;
  Tensor weights_;  // [most_tokens, V] as products read them; undefined: no gradients wanted
  Tensor sums_;     // [most_tokens, D]  w · W
  Tensor scaled_;   // [most_tokens, D]  s · x; undefined: no dweight wanted
  std::vector<double> totals_;
  std::vector<Token> tokens_;
  int64_t begin_ = 0;
};

}  // namespace

void linear_cross_entropy(Stream, const LinearCrossEntropyArgs& args) {
  const Dtype compute = args.weight_forward.compute;
  if (compute == Dtype::f64) return reference::linear_cross_entropy(args);
  const int64_t tokens = args.x.rows();
  const int64_t token_bytes = args.weight_forward.out * static_cast<int64_t>(size_of(compute));
  const int64_t most =
      std::min(tokens_per_chunk(tokens, token_bytes, product_rows(compute)), tokens);
  Chunk chunk(args, most);
  double loss = 0;
  for (int64_t begin = 0; begin < tokens; begin += most) {
    loss += chunk.run(begin, std::min(begin + most, tokens));
  }
  args.loss.data<double>()[0] = loss;
}

}  // namespace cpu
}  // namespace sidewinder
