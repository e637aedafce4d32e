#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <bit>

#include "kernels/base/rounding.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/scratch.h"

namespace sidewinder::cpu {
namespace {

// Work is cut into about this many items, so that two threads, or twenty, end at the same time. A
// constant: the partition must not depend on the threads at hand.
constexpr int64_t kTargetItems = 64;
// Every item packs its rows of A, which only pays for enough columns. With few rows there are fewer
// items instead.
constexpr int64_t kFewestItems = 8;
constexpr int64_t kFewestColumns = 1024;
constexpr int64_t kFewestPanels = 4;
// The last rows of a product are cut finer, so that no thread waits long for another: one of so
// many parts of the rows, in blocks of so many panels.
constexpr int64_t kFinePart = 8;
constexpr int64_t kFinePanels = 2;
// Columns of B that stay in the cache that cores share while all rows pass by.
constexpr int64_t kSharedCacheBytes = int64_t{4} << 20;
// Steps of the shared operand of a transposed product that an item packs.
constexpr int64_t kPackSteps = 64;
static_assert(kPackSteps % kGemmStepGroup == 0);
// A chunk of a transposed product is cut into at least about this many items, and into two for
// every thread as far as none multiplies fewer panels of the shared operand than these.
constexpr int64_t kItemsPerChunk = 16;
constexpr int64_t kItemsPerThread = 2;
constexpr int64_t kFewestSharedPanels = 8;
// The panels that an item packs stay in the second-level cache.
constexpr int64_t kMostPanelsOfA = 6;
constexpr int64_t kMostPanelsOfB = 2;
constexpr int64_t kVeryNarrowPanels = 8;
constexpr int64_t kLineBytes = 64;
// Keeps panels apart that would otherwise start a power of two apart and compete for cache sets.
constexpr int64_t kPanelPadding = 64;

GemmWord word_of(const GemmKernels& kernels, Dtype compute) {
  return compute == Dtype::bf16 ? kernels.bf16_word : GemmWord::f32;
}

const GemmRows& rows_of(const GemmKernels& kernels, GemmWord word) {
  return word == GemmWord::bf16_pair ? kernels.pair_rows : kernels.single_rows;
}

int64_t elements_per_step(GemmWord word) { return word == GemmWord::bf16_pair ? 2 : 1; }

// Cuts columns into pieces of whole panels: `wanted` pieces, but none narrower than `fewest` nor
// wider than `most` columns.
int64_t columns_per_piece(int64_t columns, int64_t wanted, int64_t fewest, int64_t most,
                          int64_t panel) {
  const int64_t panels = divide_up(columns, panel);
  const int64_t width = divide_up(panels, std::max<int64_t>(1, wanted)) * panel;
  return std::clamp(width, round_up(std::min(fewest, most), panel), round_up(most, panel));
}

// The part of a linear product that one thread computes at a time.
struct LinearItem {
  int64_t first_row;
  int64_t rows;
  int64_t first_column;
  int64_t columns;
};

GemmOutput output_of(const LinearProduct& product, const LinearItem& item) {
  GemmOutput output{};
  output.y = product.y.at(item.first_row, item.first_column);
  output.stride = product.y.row_stride;
  output.element = product.y.element;
  return output;
}

void add_previous(GemmOutput& output, const void* previous, int64_t stride, GemmElement element) {
  output.previous = previous;
  output.previous_stride = stride;
  output.previous_element = element;
}

// What is added to the product besides earlier blocks of the contraction.
void add_extras(GemmOutput& output, const LinearProduct& product, const LinearItem& item) {
  if (product.bias != nullptr) output.bias = product.bias + item.first_column;
  if (product.residual.data != nullptr) {
    output.residual = product.residual.at(item.first_row, item.first_column);
    output.residual_stride = product.residual.row_stride;
    output.residual_element = product.residual.element;
  }
  if (product.accumulate) {
    add_previous(output, product.y.at(item.first_row, item.first_column), product.y.row_stride,
                 product.y.element);
  }
}

// Rows of x as memory to ask for, where they are one piece of it. Where they are not, each of them
// is a stream that the processor foresees.
GemmAhead rows_ahead(const Matrix& x, int64_t first_row, int64_t rows) {
  if (rows <= 0 || x.columns != x.row_stride) return {};
  const int64_t size = x.element == GemmElement::f32 ? 4 : 2;
  return {x.at(first_row, 0), kLineBytes, rows * x.columns * size / kLineBytes, 1};
}

// The contraction is taken in blocks whose panels of A fit the second-level cache. Sums over
// earlier blocks are kept in f32: in y itself or, where that is bf16, beside the panels. The rows
// [next_row, next_row + next_rows) are asked for on the way.
void run_linear_item(const GemmKernels& kernels, const LinearProduct& product,
                     const WeightPart& part, const LinearItem& item, int64_t next_row,
                     int64_t next_rows) {
  const GemmWord word = word_of(kernels, product.weight.compute);
  const GemmRows& cut = rows_of(kernels, word);
  const int64_t steps = gemm_steps(part.in, word);
  const int64_t first_step = part.first_in / elements_per_step(word);
  // A rest of less than half a block does not become one of its own.
  const int64_t block_steps =
      steps <= kernels.block_steps + kernels.block_steps / 2 ? steps : kernels.block_steps;
  const int64_t a_panel_stride = round_up(block_steps, kGemmStepGroup) * cut.tile_rows;
  const int64_t a_words =
      round_up(divide_up(item.rows, cut.tile_rows) * a_panel_stride, kPanelPadding);
  const int64_t b_panel_stride = product.weight.data.width();
  const auto* b = static_cast<const uint32_t*>(product.weight.data.raw()) +
                  (part.first_out + item.first_column) / kernels.tile_columns * b_panel_stride;
  const GemmOutput y = output_of(product, item);
  const bool sums_beside = steps > block_steps && y.element == GemmElement::bf16;
  const int64_t sum_stride = sums_beside ? round_up(item.columns, kernels.tile_columns) : y.stride;
  const int64_t sum_words = sums_beside ? item.rows * sum_stride : 0;
  auto* a = static_cast<uint32_t*>(thread_scratch(static_cast<size_t>(4 * (a_words + sum_words))));
  void* sums = sums_beside ? a + a_words : y.y;

  for (int64_t step = 0; step < steps; step += block_steps) {
    const int64_t num_steps = std::min(block_steps, steps - step);
    const int64_t k = step * elements_per_step(word);
    kernels.pack({.panels = a,
                  .panel_stride = a_panel_stride,
                  .first_step = 0,
                  .width = cut.tile_rows,
                  .order = cut.order,
                  .halves_last = false,
                  .source = product.x.at(item.first_row, k),
                  .row_stride = product.x.row_stride,
                  .extent = item.rows,
                  .readable_extent = item.rows,
                  .contraction = std::min(num_steps * elements_per_step(word), part.in - k),
                  .contracts_rows = false,
                  .element = product.x.element,
                  .word = word});
    GemmOutput output = y;
    if (sums_beside && step + num_steps < steps) {
      output.y = sums;
      output.stride = sum_stride;
      output.element = GemmElement::f32;
    }
    if (step == 0) {
      add_extras(output, product, item);
    } else {
      add_previous(output, sums, sum_stride, GemmElement::f32);
    }
    kernels.multiply(
        {.a = a,
         .a_panel_stride = a_panel_stride,
         .b = b,
         .b_panel_stride = b_panel_stride,
         .first_step = first_step + step,
         .steps = num_steps,
         .rows = item.rows,
         .columns = item.columns,
         .word = word,
         .output = output,
         .ahead = steps == block_steps ? rows_ahead(product.x, next_row, next_rows) : GemmAhead{},
         .packs_a = nullptr,
         .packs_b = nullptr});
  }
}

// One operand of a product that contracts over the rows of both, in panels of its columns.
class TransposedOperand {
 public:
  struct Range {
    int64_t begin, end;
  };

  TransposedOperand(const Matrix& source, int panel_width, GemmOrder order, bool halves_last,
                    int64_t most_steps)
      : source_(source),
        width_(panel_width),
        order_(order),
        halves_last_(halves_last),
        panel_stride_(round_up(round_up(most_steps, kGemmStepGroup) * panel_width, kPanelPadding) +
                      kPanelPadding) {}

  int64_t elements() const { return source_.columns; }
  int64_t panels() const { return divide_up(source_.columns, width_); }
  int64_t panel_stride() const { return panel_stride_; }
  int64_t first_element(int64_t panel) const { return std::min(panel * width_, source_.columns); }

  // Fills steps from `first_step` on of some panels, the first of which is at `words`, with the
  // source's rows of these tokens.
  GemmPack packing(GemmWord word, Range panels, Range tokens, uint32_t* words,
                   int64_t first_step) const {
    const int64_t first = first_element(panels.begin);
    return {.panels = words,
            .panel_stride = panel_stride_,
            .first_step = first_step,
            .width = width_,
            .order = order_,
            .halves_last = halves_last_,
            .source = source_.at(tokens.begin, first),
            .row_stride = source_.row_stride,
            .extent = first_element(panels.end) - first,
            .readable_extent = source_.columns - first,
            .contraction = tokens.end - tokens.begin,
            .contracts_rows = true,
            .element = source_.element,
            .word = word};
  }

  // Where packing() will read.
  GemmAhead source_of(Range panels, Range tokens) const {
    const int64_t first = first_element(panels.begin);
    if (first == source_.columns) return {};
    const int64_t size = source_.element == GemmElement::f32 ? 4 : 2;
    return {.data = source_.at(tokens.begin, first),
            .stride = source_.row_stride * size,
            .rows = tokens.end - tokens.begin,
            .bytes = (first_element(panels.end) - first) * size};
  }

 private:
  Matrix source_;
  int width_;
  GemmOrder order_;
  bool halves_last_;
  int64_t panel_stride_;  // in words
};

void check_packing(const GemmKernels& kernels, const PackedWeight& weight) {
  // Fails where the weight was packed at another instruction-set level.
  SIDEWINDER_ASSERT(weight.data.width() ==
                    gemm_steps(weight.in, word_of(kernels, weight.compute)) * kernels.tile_columns);
}

}  // namespace

Matrix matrix_of(const Tensor& tensor) {
  return {tensor.raw(), tensor.rows(), tensor.width(), tensor.row_stride(),
          tensor.dtype() == Dtype::bf16 ? GemmElement::bf16 : GemmElement::f32};
}

const GemmRows& product_rows(Dtype compute) {
  const GemmKernels& kernels = gemm_kernels_for_isa();
  return rows_of(kernels, word_of(kernels, compute));
}

void pack_panels(PackedWeight& packed, const Matrix& weight, WeightUse use) {
  const GemmKernels& kernels = gemm_kernels_for_isa();
  const GemmWord word = word_of(kernels, packed.compute);
  const int64_t panels = divide_up(packed.out, kernels.tile_columns);
  const int64_t panel_words = gemm_steps(packed.in, word) * kernels.tile_columns;
  packed.data = Tensor::empty({panels, panel_words}, Dtype::f32);
  const bool forward = use == WeightUse::forward;
  constexpr int64_t kPanelsPerItem = 2;
  parallel_ranges(panels, kPanelsPerItem, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kernels.tile_columns;
    const int64_t last = std::min(end * kernels.tile_columns, packed.out);
    kernels.pack({.panels = static_cast<uint32_t*>(packed.data.raw()) + begin * panel_words,
                  .panel_stride = panel_words,
                  .first_step = 0,
                  .width = kernels.tile_columns,
                  .order = GemmOrder::by_step,
                  .halves_last = true,
                  .source = forward ? weight.at(first, 0) : weight.at(0, first),
                  .row_stride = weight.row_stride,
                  .extent = last - first,
                  .readable_extent = packed.out - first,
                  .contraction = packed.in,
                  .contracts_rows = !forward,
                  .element = weight.element,
                  .word = word});
  });
}

void multiply(const LinearProduct& product) {
  const GemmKernels& kernels = gemm_kernels_for_isa();
  check_packing(kernels, product.weight);
  const GemmRows& cut = product_rows(product.weight.compute);
  const int64_t rows = product.x.rows;
  const int64_t columns = product.weight.out;
  if (rows == 0 || columns == 0) return;
  const int64_t row_blocks = divide_up(rows, cut.block_rows);
  const int64_t panel_bytes = 4 * product.weight.data.width();
  const int64_t most =
      std::max(kFewestColumns, kSharedCacheBytes / panel_bytes * kernels.tile_columns);
  const int64_t width =
      row_blocks < kFewestItems
          ? columns_per_piece(columns, divide_up(kFewestItems, row_blocks),
                              kFewestPanels * kernels.tile_columns, most, kernels.tile_columns)
          : columns_per_piece(columns, divide_up(kTargetItems, row_blocks), kFewestColumns, most,
                              kernels.tile_columns);
  // Blocks of rows below this one are whole; the rest of the last piece's rows is cut finer.
  const int64_t whole_blocks =
      row_blocks < kFewestItems ? row_blocks : row_blocks - divide_up(row_blocks, kFinePart);
  const int64_t fine_rows = kFinePanels * cut.tile_rows;
  const int64_t whole_items = (divide_up(columns, width) - 1) * row_blocks + whole_blocks;
  const int64_t fine_items =
      divide_up(std::max<int64_t>(0, rows - whole_blocks * cut.block_rows), fine_rows);
  const int num_threads = ThreadPool::global().num_threads();
  parallel_for(whole_items + fine_items, [&](int64_t i) {
    const bool fine = i >= whole_items;
    const int64_t block_rows = fine ? fine_rows : cut.block_rows;
    const int64_t block = fine ? whole_items : i;
    LinearItem item{};
    item.first_row =
        block % row_blocks * cut.block_rows + (fine ? (i - whole_items) * fine_rows : 0);
    item.rows = std::min(block_rows, rows - item.first_row);
    item.first_column = block / row_blocks * width;
    item.columns = std::min(width, columns - item.first_column);
    // Items are handed out in order, so the next one of this thread is likely so many further.
    const int64_t next_row = item.first_row + num_threads * block_rows;
    run_linear_item(kernels, product, {0, product.weight.in, 0, columns}, item, next_row,
                    std::min(block_rows, rows - next_row));
  });
}

void multiply_in_item(const LinearProduct& product, const WeightPart& part) {
  const GemmKernels& kernels = gemm_kernels_for_isa();
  check_packing(kernels, product.weight);
  const GemmRows& cut = product_rows(product.weight.compute);
  SIDEWINDER_ASSERT(part.first_in % 2 == 0 && part.first_out % kernels.tile_columns == 0);
  for (int64_t row = 0; row < product.x.rows; row += cut.block_rows) {
    const int64_t rows = std::min<int64_t>(cut.block_rows, product.x.rows - row);
    run_linear_item(kernels, product, part, {row, rows, 0, part.out}, 0, 0);
  }
}

void add_weight_row(float* y, const PackedWeight& weight, int64_t row, float factor) {
  const GemmKernels& kernels = gemm_kernels_for_isa();
  check_packing(kernels, weight);
  const GemmWord word = word_of(kernels, weight.compute);
  const int64_t half = kernels.tile_columns / 2;
  const int64_t step = row / elements_per_step(word);
  const auto* panel = static_cast<const uint32_t*>(weight.data.raw());
  for (int64_t column = 0; column < weight.out; column += kernels.tile_columns) {
    const int64_t count = std::min<int64_t>(kernels.tile_columns, weight.out - column);
    const uint32_t* words = panel + step * (count <= half ? half : kernels.tile_columns);
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits = words[i];
      if (word == GemmWord::bf16_pair) bits = row % 2 == 0 ? bits << 16 : bits & 0xffff0000U;
      y[column + i] += factor * std::bit_cast<float>(bits);
    }
    panel += weight.data.width();
  }
}

void multiply_transposed(const Matrix& dweight, const Matrix& dy, const Matrix& x, Dtype compute,
                         bool accumulate) {
  const GemmKernels& kernels = gemm_kernels_for_isa();
  const GemmWord word = word_of(kernels, compute);
  const int64_t tokens = x.rows;
  if (dweight.rows == 0 || dweight.columns == 0 || tokens == 0) return;
  // Tokens are taken in chunks of equal length, whose panels fit the second-level cache. The sum
  // over the tokens of a chunk is added to dweight as a whole.
  const int64_t chunks = divide_up(gemm_steps(tokens, word), kernels.block_steps);
  const int64_t chunk_steps = divide_up(gemm_steps(tokens, word), chunks);
  const int64_t chunk_tokens = chunk_steps * elements_per_step(word);
  // Every item reads the narrower operand, which is packed once. The wider one is cut into blocks
  // of columns that items pack for themselves: their panels never leave a core's caches. Where the
  // narrower one is very narrow, the wider one takes the place of B, whose panels are packed
  // quicker, and the product is the transpose of dweight.
  const bool swapped = dweight.rows >= dweight.columns &&
                       dweight.columns <= kVeryNarrowPanels * kernels.tile_columns;
  const GemmRows& rows = rows_of(kernels, word);
  const TransposedOperand a(swapped ? x : dy, rows.tile_rows, rows.order, false, chunk_steps);
  const TransposedOperand b(swapped ? dy : x, kernels.tile_columns, GemmOrder::by_step, true,
                            chunk_steps);
  const bool cuts_b = swapped || dweight.columns > dweight.rows;
  const TransposedOperand& cut = cuts_b ? b : a;
  const TransposedOperand& shared = cuts_b ? a : b;
  const int64_t most_panels =
      cuts_b ? kMostPanelsOfB : std::min<int64_t>(kMostPanelsOfA, rows.block_rows / rows.tile_rows);
  const int64_t panels_per_item =
      std::clamp<int64_t>(cut.panels() / kItemsPerChunk, 1, most_panels);
  // With many threads several items pack the same panels, each for a part of the shared ones. The
  // bits of an element do not depend on the item it falls in.
  const int num_threads = ThreadPool::global().num_threads();
  const int64_t blocks = divide_up(cut.panels(), panels_per_item);
  const int64_t panels_per_part =
      std::max(divide_up(shared.panels(), divide_up(kItemsPerThread * num_threads, blocks)),
               std::min(kFewestSharedPanels, shared.panels()));
  const int64_t parts = divide_up(shared.panels(), panels_per_part);
  const Tensor shared_panels = Tensor::empty({shared.panels(), shared.panel_stride()}, Dtype::f32);
  auto* const shared_words = static_cast<uint32_t*>(shared_panels.raw());

  for (int64_t first_token = 0; first_token < tokens; first_token += chunk_tokens) {
    const int64_t end_token = std::min(tokens, first_token + chunk_tokens);
    const int64_t steps = gemm_steps(end_token - first_token, word);
    parallel_ranges(steps, kPackSteps, [&](int64_t begin, int64_t end) {
      const int64_t first = first_token + begin * elements_per_step(word);
      const int64_t last = std::min(end_token, first_token + end * elements_per_step(word));
      kernels.pack(shared.packing(word, {0, shared.panels()}, {first, last}, shared_words, begin));
    });
    parallel_for(blocks * parts, [&](int64_t item) {
      const int64_t begin = item % blocks * panels_per_item;
      const int64_t end = std::min(begin + panels_per_item, cut.panels());
      const int64_t part = item / blocks * panels_per_part;
      const int64_t part_end = std::min(part + panels_per_part, shared.panels());
      const int64_t words = panels_per_item * cut.panel_stride();
      auto* const cut_words =
          static_cast<uint32_t*>(thread_scratch(static_cast<size_t>(4 * words)));
      const uint32_t* const part_words = shared_words + part * shared.panel_stride();
      const GemmPack packing =
          cut.packing(word, {begin, end}, {first_token, end_token}, cut_words, 0);
      // Items are handed out in order, so the next one of this thread is likely so many further.
      const int64_t next = std::min(begin + num_threads * panels_per_item, cut.panels());
      const int64_t next_end = std::min(next + panels_per_item, cut.panels());
      const int64_t first_cut = cut.first_element(begin);
      const int64_t cut_elements = cut.first_element(end) - first_cut;
      const int64_t first_shared = shared.first_element(part);
      const int64_t shared_elements = shared.first_element(part_end) - first_shared;
      const int64_t first_row = cuts_b ? first_shared : first_cut;
      const int64_t first_column = cuts_b ? first_cut : first_shared;
      GemmOutput output{};
      output.y =
          swapped ? dweight.at(first_column, first_row) : dweight.at(first_row, first_column);
      output.transposed = swapped;
      output.stride = dweight.row_stride;
      if (accumulate || first_token > 0) {
        add_previous(output, output.y, output.stride, GemmElement::f32);
      }
      kernels.multiply({.a = cuts_b ? part_words : cut_words,
                        .a_panel_stride = a.panel_stride(),
                        .b = cuts_b ? cut_words : part_words,
                        .b_panel_stride = b.panel_stride(),
                        .first_step = 0,
                        .steps = steps,
                        .rows = cuts_b ? shared_elements : cut_elements,
                        .columns = cuts_b ? cut_elements : shared_elements,
                        .word = word,
                        .output = output,
                        .ahead = cut.source_of({next, next_end}, {first_token, end_token}),
                        .packs_a = cuts_b ? nullptr : &packing,
                        .packs_b = cuts_b ? &packing : nullptr});
    });
  }
}

}  // namespace sidewinder::cpu
