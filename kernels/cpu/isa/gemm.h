#pragma once
// The inner loops of matrix products, C [rows, columns] = A [rows, k] · B [k, columns].
//
// Both operands are read from panels of 32-bit words. A panel holds `width` rows of A (columns of
// B) and is ordered by steps of the contraction: word (step, i) lies at step · width + i. A word is
// one f32 element, or two bf16 elements that are neighbours along the contraction, so that f32 and
// bf16 products share their loops and differ in one instruction. A has panels of `tile_rows`, B of
// `tile_columns`; a last panel of B that needs only half of them is half as wide. Tile registers
// (AMX) take panels of B as they are, and those of A in an order of their own.
//
// Every element of C is one chain of multiply-adds over the steps (of sums over 16 of them with
// tile registers), whatever tile it falls in: the bits of a row of C do not depend on how many rows
// there are or where it lies.

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace sidewinder {

enum class GemmElement : uint8_t { f32, bf16 };

enum class GemmWord : uint8_t {
  f32,          // one element
  rounded_f32,  // one element rounded to bf16: for CPUs without bf16 instructions
  bf16_pair,    // two elements, the earlier one in the low half
};

constexpr int64_t gemm_steps(int64_t contraction, GemmWord word) {
  return word == GemmWord::bf16_pair ? (contraction + 1) / 2 : contraction;
}

enum class GemmOrder : uint8_t {
  by_step,  // word (step, i) at step · width + i
  // For tile registers: groups of 16 steps and in them the rows, so that word (step, i) lies at
  // (step / 16 · width + i) · 16 + step % 16. Zeros fill up the last group.
  by_tile,
};

// Panels of A have room for a multiple of so many steps, and are filled from such a multiple on.
inline constexpr int64_t kGemmStepGroup = 16;

// Copies a matrix into panels, converting on the way.
struct GemmPack {
  uint32_t* panels;
  int64_t panel_stride;  // words from one panel to the next
  int64_t first_step;    // of the panels to fill
  int width;
  GemmOrder order;
  bool halves_last;  // B: the last panel is half as wide where that is enough
  const void* source;
  int64_t row_stride;  // in elements
  int64_t extent;      // rows of A or columns of B
  // Elements that may be read of a row of the source, where the contraction runs over rows: more
  // than `extent` where the panels are of a part of its columns.
  int64_t readable_extent;
  int64_t contraction;  // elements to contract over
  bool contracts_rows;  // the contraction runs over the rows of the source, not along them
  GemmElement element;
  GemmWord word;
};

struct GemmOutput {
  void* y;
  bool transposed;  // row r, column c of the product goes to row c, column r of y: f32 only
  int64_t stride;
  GemmElement element;
  // Added to the product, each may be null. A transposed product can only be added to y itself.
  const float* bias;  // one row
  const void* residual;
  int64_t residual_stride;
  GemmElement residual_element;
  const void* previous;  // of type `previous_element`: earlier sums, or y itself
  int64_t previous_stride;
  GemmElement previous_element;
};

// Memory to ask for while a block is multiplied, because it is read next: `rows` pieces of `bytes`.
struct GemmAhead {
  const void* data;
  int64_t stride;  // in bytes
  int64_t rows;
  int64_t bytes;  // 0: nothing
};

struct GemmBlock {
  const uint32_t* a;
  int64_t a_panel_stride;
  const uint32_t* b;
  int64_t b_panel_stride;
  int64_t first_step;  // of the panels of B; those of A begin with the block
  int64_t steps;
  int64_t rows;
  int64_t columns;
  GemmWord word;
  GemmOutput output;
  GemmAhead ahead;
  // What the panels of A (of B) are to be filled with, which the block does on its way: an operand
  // that contracts over its source's rows. Null: they are filled.
  const GemmPack* packs_a;
  const GemmPack* packs_b;
};

// How the rows of A are cut.
struct GemmRows {
  int tile_rows;   // of a panel
  int block_rows;  // that a core keeps in its second-level cache, times `block_steps`
  GemmOrder order;
};

struct GemmKernels {
  GemmRows single_rows;  // for words of one element
  GemmRows pair_rows;    // for pairs
  int tile_columns;
  int64_t block_steps;
  GemmWord bf16_word;  // what operands of bf16 products are packed to
  void (*pack)(const GemmPack&);
  void (*multiply)(const GemmBlock&);
};
SIDEWINDER_DECLARE_PER_ISA_WITH_TILES(GemmKernels, gemm_kernels)

}  // namespace sidewinder
