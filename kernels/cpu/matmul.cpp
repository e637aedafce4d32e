#include "kernels/ops/matmul.h"

#include <algorithm>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa/gemm.h"
#include "kernels/cpu/scratch.h"
#include "kernels/reference/matmul.h"

namespace sidewinder {

SIDEWINDER_DECLARE_PER_ISA(GemmKernels, gemm_kernels)

namespace cpu {
namespace {

// Work is cut into about this many items, so that two threads, or twenty, end at the same time. A
// constant: the partition must not depend on the threads at hand.
constexpr int64_t kTargetItems = 64;
// Columns of B per item: fewer would pack A too often, more would not stay in the shared cache.
constexpr int64_t kFewestColumns = 1024;
constexpr int64_t kColumnBytes = int64_t{4} << 20;
constexpr int64_t kPackSteps = 64;  // of both operands of a weight gradient, per item

int64_t divide_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t round_up(int64_t value, int64_t unit) { return divide_up(value, unit) * unit; }

GemmElement element_of(const Tensor& tensor) {
  return tensor.dtype() == Dtype::bf16 ? GemmElement::bf16 : GemmElement::f32;
}

GemmWord word_of(const GemmKernels& kernels, Dtype compute) {
  return compute == Dtype::bf16 ? kernels.bf16_word : GemmWord::f32;
}

const void* element_at(const Tensor& tensor, int64_t row, int64_t column) {
  return static_cast<const char*>(tensor.raw()) +
         static_cast<size_t>(row * tensor.row_stride() + column) * size_of(tensor.dtype());
}

// How the columns of a product are cut among items: into pieces of whole panels.
struct ColumnSplit {
  int64_t columns_per_item;
  int64_t num_pieces;

  ColumnSplit(int64_t columns, int64_t wanted_pieces, int64_t fewest, int64_t most, int64_t panel) {
    const int64_t panels = divide_up(columns, panel);
    const int64_t wanted = divide_up(panels, std::max<int64_t>(1, wanted_pieces)) * panel;
    columns_per_item =
        std::clamp(wanted, round_up(std::min(fewest, most), panel), round_up(most, panel));
    num_pieces = divide_up(columns, columns_per_item);
  }
};

void pack_weight_f64(const PackWeightArgs& args) {
  args.packed.data =
      args.use == WeightUse::forward ? args.weight.clone() : reference::transpose(args.weight);
}

// The part of a linear product that one thread computes at a time.
struct LinearItem {
  int64_t first_row;
  int64_t rows;
  int64_t first_column;
  int64_t columns;
};

GemmOutput output_of(const LinearArgs& args, const LinearItem& item) {
  GemmOutput output{};
  output.y = const_cast<void*>(element_at(args.y, item.first_row, item.first_column));
  output.stride = args.y.row_stride();
  output.element = element_of(args.y);
  return output;
}

// What is added to the product besides earlier blocks of the contraction.
void add_extras(GemmOutput& output, const LinearArgs& args, const LinearItem& item) {
  if (args.bias.defined()) output.bias = args.bias.data<float>() + item.first_column;
  if (args.residual.defined()) {
    output.residual = element_at(args.residual, item.first_row, item.first_column);
    output.residual_stride = args.residual.row_stride();
    output.residual_element = element_of(args.residual);
  }
  if (args.accumulate) {
    output.previous = output.y;
    output.previous_stride = output.stride;
    output.previous_element = output.element;
  }
}

void run_linear_item(const GemmKernels& kernels, const LinearArgs& args, const LinearItem& item) {
  const GemmWord word = word_of(kernels, args.weight.compute);
  const int64_t steps = gemm_steps(args.weight.in, word);
  const int64_t block_steps = std::min(steps, kernels.block_steps);
  const int64_t elements_per_step = word == GemmWord::bf16_pair ? 2 : 1;
  const int64_t a_panel_stride = block_steps * kernels.tile_rows;
  const int64_t a_words = divide_up(item.rows, kernels.tile_rows) * a_panel_stride;
  const bool in_blocks = steps > block_steps;
  // Sums over blocks of the contraction are kept in f32.
  const bool needs_sums = in_blocks && args.y.dtype() == Dtype::bf16;
  const int64_t sum_stride = round_up(item.columns, kernels.tile_columns);
  auto* a = static_cast<uint32_t*>(thread_scratch(static_cast<size_t>(
      4 * (round_up(a_words, 16) + (needs_sums ? item.rows * sum_stride : 0)))));
  auto* sums = reinterpret_cast<float*>(a + round_up(a_words, 16));
  const GemmOutput y = output_of(args, item);

  for (int64_t step = 0; step < steps; step += block_steps) {
    const int64_t num_steps = std::min(block_steps, steps - step);
    const int64_t k = step * elements_per_step;
    kernels.pack({.panels = a,
                  .panel_stride = a_panel_stride,
                  .first_step = 0,
                  .width = kernels.tile_rows,
                  .halves_last = false,
                  .source = element_at(args.x, item.first_row, k),
                  .row_stride = args.x.row_stride(),
                  .extent = item.rows,
                  .contraction = std::min(num_steps * elements_per_step, args.weight.in - k),
                  .contracts_rows = false,
                  .element = element_of(args.x),
                  .word = word});
    const bool first = step == 0;
    const bool last = step + num_steps == steps;
    GemmOutput output = y;
    if (needs_sums && !last) {
      output.y = sums;
      output.stride = sum_stride;
      output.element = GemmElement::f32;
    }
    if (!first) {
      output.previous = needs_sums ? sums : y.y;
      output.previous_stride = needs_sums ? sum_stride : y.stride;
      output.previous_element = GemmElement::f32;
    } else {
      GemmOutput extras = y;
      add_extras(extras, args, item);
      output.bias = extras.bias;
      output.residual = extras.residual;
      output.residual_stride = extras.residual_stride;
      output.residual_element = extras.residual_element;
      output.previous = extras.previous;
      output.previous_stride = extras.previous_stride;
      output.previous_element = extras.previous_element;
    }
    const int64_t b_panel_stride = steps * kernels.tile_columns;
    const auto* b = static_cast<const uint32_t*>(args.weight.data.raw()) +
                    item.first_column / kernels.tile_columns * b_panel_stride;
    // The last panel may be half as wide; its steps are half as long too.
    kernels.multiply({.a = a,
                      .a_panel_stride = a_panel_stride,
                      .b = b,
                      .b_panel_stride = b_panel_stride,
                      .first_step = step,
                      .steps = num_steps,
                      .rows = item.rows,
                      .columns = item.columns,
                      .word = word,
                      .output = output});
  }
}

}  // namespace

void pack_weight(Stream, const PackWeightArgs& args) {
  if (args.packed.compute == Dtype::f64) return pack_weight_f64(args);
  const GemmKernels& kernels = gemm_kernels_for_isa();
  const GemmWord word = word_of(kernels, args.packed.compute);
  const int64_t panels = divide_up(args.packed.out, kernels.tile_columns);
  const int64_t panel_words = gemm_steps(args.packed.in, word) * kernels.tile_columns;
  args.packed.data = Tensor::empty({panels, panel_words}, Dtype::f32);
  const bool forward = args.use == WeightUse::forward;
  constexpr int64_t kPanelsPerItem = 4;
  parallel_ranges(panels, kPanelsPerItem, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kernels.tile_columns;
    const int64_t last = std::min(end * kernels.tile_columns, args.packed.out);
    kernels.pack(
        {.panels = static_cast<uint32_t*>(args.packed.data.raw()) + begin * panel_words,
         .panel_stride = panel_words,
         .first_step = 0,
         .width = kernels.tile_columns,
         .halves_last = true,
         .source = forward ? element_at(args.weight, first, 0) : element_at(args.weight, 0, first),
         .row_stride = args.weight.row_stride(),
         .extent = last - first,
         .contraction = args.packed.in,
         .contracts_rows = !forward,
         .element = element_of(args.weight),
         .word = word});
  });
}

void linear(Stream, const LinearArgs& args) {
  if (args.weight.compute == Dtype::f64) {
    return reference::linear(args.y, args.x, args.weight.data, args.bias, args.residual,
                             args.accumulate);
  }
  const GemmKernels& kernels = gemm_kernels_for_isa();
  const int64_t rows = args.x.rows();
  const int64_t columns = args.weight.out;
  const int64_t steps = gemm_steps(args.weight.in, word_of(kernels, args.weight.compute));
  SIDEWINDER_ASSERT(args.weight.data.size(1) == steps * kernels.tile_columns);
  if (rows == 0 || columns == 0) return;
  const int64_t row_blocks = divide_up(rows, kernels.block_rows);
  const int64_t most = std::max(kFewestColumns, kColumnBytes / (4 * std::max<int64_t>(1, steps)));
  // Few rows: cut the columns finer, down to a panel each.
  const int64_t fewest =
      row_blocks >= kTargetItems / 8 ? kFewestColumns : int64_t{kernels.tile_columns};
  const ColumnSplit split(columns, divide_up(kTargetItems, row_blocks), fewest, most,
                          kernels.tile_columns);
  parallel_for(row_blocks * split.num_pieces, [&](int64_t i) {
    LinearItem item{};
    item.first_row = i % row_blocks * kernels.block_rows;
    item.rows = std::min<int64_t>(kernels.block_rows, rows - item.first_row);
    item.first_column = i / row_blocks * split.columns_per_item;
    item.columns = std::min(split.columns_per_item, columns - item.first_column);
    run_linear_item(kernels, args, item);
  });
}

void weight_gradient(Stream, const WeightGradientArgs& args) {
  if (args.compute == Dtype::f64) {
    return reference::weight_gradient(args.dweight, args.dy, args.x, args.accumulate);
  }
  const GemmKernels& kernels = gemm_kernels_for_isa();
  const GemmWord word = word_of(kernels, args.compute);
  const int64_t elements_per_step = word == GemmWord::bf16_pair ? 2 : 1;
  const int64_t tokens = args.x.rows();
  const int64_t rows = args.dweight.rows();
  const int64_t columns = args.dweight.width();
  if (rows == 0 || columns == 0) return;
  if (tokens == 0) {
    if (!args.accumulate) args.dweight.fill_zero();
    return;
  }
  // Tokens are taken in chunks of equal length: both operands of a chunk are packed once, then
  // multiplied. A sum over the tokens of a chunk is added to dweight as a whole.
  const int64_t chunks = divide_up(gemm_steps(tokens, word), kernels.block_steps);
  const int64_t chunk_steps = divide_up(gemm_steps(tokens, word), chunks);
  const int64_t chunk_tokens = chunk_steps * elements_per_step;
  const int64_t a_panels = divide_up(rows, kernels.tile_rows);
  const int64_t a_panel_stride = round_up(chunk_steps * kernels.tile_rows, 16) + 64;
  const int64_t b_panels = divide_up(columns, kernels.tile_columns);
  const int64_t b_panel_stride = chunk_steps * kernels.tile_columns + 64;
  const Tensor a = Tensor::empty({a_panels, a_panel_stride}, Dtype::f32);
  const Tensor b = Tensor::empty({b_panels, b_panel_stride}, Dtype::f32);
  const int64_t a_panels_per_item = kernels.block_rows / kernels.tile_rows;
  const int64_t a_items = divide_up(a_panels, a_panels_per_item);
  const ColumnSplit split(columns, divide_up(kTargetItems, a_items),
                          int64_t{8} * kernels.tile_columns, kFewestColumns, kernels.tile_columns);
  const auto pack = [&](const Tensor& source, const Tensor& panels, int width, int64_t token,
                        int64_t num_tokens, int64_t step, bool halves_last) {
    kernels.pack({.panels = static_cast<uint32_t*>(panels.raw()),
                  .panel_stride = panels.size(1),
                  .first_step = step,
                  .width = width,
                  .halves_last = halves_last,
                  .source = element_at(source, token, 0),
                  .row_stride = source.row_stride(),
                  .extent = source.width(),
                  .contraction = num_tokens,
                  .contracts_rows = true,
                  .element = element_of(source),
                  .word = word});
  };

  for (int64_t first_token = 0; first_token < tokens; first_token += chunk_tokens) {
    const int64_t num_tokens = std::min(chunk_tokens, tokens - first_token);
    const int64_t steps = gemm_steps(num_tokens, word);
    parallel_for(2 * divide_up(steps, kPackSteps), [&](int64_t i) {
      const int64_t step = i / 2 * kPackSteps;
      const int64_t token = step * elements_per_step;
      const int64_t count = std::min(kPackSteps * elements_per_step, num_tokens - token);
      if (i % 2 == 0) {
        pack(args.dy, a, kernels.tile_rows, first_token + token, count, step, false);
      } else {
        pack(args.x, b, kernels.tile_columns, first_token + token, count, step, true);
      }
    });
    parallel_for(a_items * split.num_pieces, [&](int64_t i) {
      const int64_t first_panel = i % a_items * a_panels_per_item;
      const int64_t row = first_panel * kernels.tile_rows;
      const int64_t column = i / a_items * split.columns_per_item;
      GemmOutput output{};
      output.y = const_cast<void*>(element_at(args.dweight, row, column));
      output.stride = args.dweight.row_stride();
      if (args.accumulate || first_token > 0) {
        output.previous = output.y;
        output.previous_stride = output.stride;
      }
      kernels.multiply({.a = static_cast<const uint32_t*>(a.raw()) + first_panel * a_panel_stride,
                        .a_panel_stride = a_panel_stride,
                        .b = static_cast<const uint32_t*>(b.raw()) +
                             column / kernels.tile_columns * b_panel_stride,
                        .b_panel_stride = b_panel_stride,
                        .first_step = 0,
                        .steps = steps,
                        .rows = std::min<int64_t>(kernels.block_rows, rows - row),
                        .columns = std::min(split.columns_per_item, columns - column),
                        .word = word,
                        .output = output});
    });
  }
}

}  // namespace cpu
}  // namespace sidewinder
