#include "kernels/cpu/isa/gemm.h"

#include <type_traits>

#include "kernels/cpu/isa/amx.h"
#include "kernels/cpu/isa/simd.h"
#include "kernels/cpu/isa/transpose.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

// Registers: rows × vectors accumulators, the vectors of B, and one broadcast element of A.
#if defined(__AVX512F__)
constexpr int kTileRows = 14;
constexpr int64_t kBlockSteps = 1024;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int64_t kBlockSteps = 512;
#else
constexpr int kTileRows = 4;
constexpr int64_t kBlockSteps = 512;
#endif
constexpr int kTileVectors = 2;
constexpr int kTileColumns = kTileVectors * kLanes;
constexpr int kBlockRows = 84;
constexpr int kLine = 64;  // bytes
constexpr GemmRows kSingleRows = {kTileRows, kBlockRows, GemmOrder::by_step};
#if defined(SIDEWINDER_TILES)
// Two by two tile registers of sums, two of A and two of B: all eight.
constexpr GemmRows kPairRows = {2 * kTileSide, 6 * kTileSide, GemmOrder::by_tile};
static_assert(kTileSide == kLanes && kTileColumns == 2 * kTileSide && kGemmStepGroup == kTileSide);
#else
constexpr GemmRows kPairRows = kSingleRows;
#endif

#if defined(__AVX512BF16__)
constexpr GemmWord kBf16Word = GemmWord::bf16_pair;
#else
constexpr GemmWord kBf16Word = GemmWord::rounded_f32;
#endif

F32 round_to_bf16(F32 value) {
  uint16_t rounded[kLanes];
  store(rounded, value);
  return load(rounded);
}

// ---- packing ----

template <GemmWord kWord>
constexpr int kElementsPerWord = kWord == GemmWord::bf16_pair ? 2 : 1;

// kLanes words of one row, for a contraction along rows.
template <GemmWord kWord>
F32 load_words(const float* p) {
#if defined(__AVX512BF16__)
  if constexpr (kWord == GemmWord::bf16_pair) {
    return reinterpret_cast<F32>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(load(p + kLanes)),
                                                     reinterpret_cast<__m512>(load(p))));
  }
#endif
  if constexpr (kWord == GemmWord::rounded_f32) return round_to_bf16(load(p));
  return load(p);
}

template <GemmWord kWord>
F32 load_words(const uint16_t* p) {
  if constexpr (kWord == GemmWord::bf16_pair) return load_pairs(p);
  return load(p);
}

// The same of only the first `left` elements, and zeros.
template <GemmWord kWord, typename T>
F32 load_words(const T* p, int64_t left) {
  constexpr int64_t kBatch = kLanes * kElementsPerWord<kWord>;
  if (left >= kBatch) return load_words<kWord>(p);
  T tail[kBatch] = {};
  for (int64_t j = 0; j < left; ++j) tail[j] = p[j];
  return load_words<kWord>(tail);
}

// kLanes words at rows p and p + stride, for a contraction over rows.
template <GemmWord kWord, typename T>
F32 load_across(const T* p, const T* next) {
#if defined(__AVX512BF16__)
  if constexpr (kWord == GemmWord::bf16_pair) {
    if constexpr (sizeof(T) == 4) {
      return reinterpret_cast<F32>(interleave_halves(reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(
          reinterpret_cast<__m512>(load(next)), reinterpret_cast<__m512>(load(p))))));
    } else {
      return reinterpret_cast<F32>(interleave_rows(p, next));
    }
  }
#endif
  (void)next;
  if constexpr (kWord == GemmWord::rounded_f32 && sizeof(T) == 4) return round_to_bf16(load(p));
  return load(p);
}

// The first `count` lanes. Panels of A are no multiple of a vector wide, and the words behind the
// last ones may be another thread's.
inline void store_first(float* p, F32 words, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << count) - 1),
                        reinterpret_cast<__m512>(words));
#elif defined(__AVX2__)
  if (count == kLanes) return store(p, words);
  if (count == 6) {  // masked stores are slow at this level
    const auto all = reinterpret_cast<__m256>(words);
    _mm_storeu_ps(p, _mm256_castps256_ps128(all));
    _mm_storel_pi(reinterpret_cast<__m64*>(p + 4), _mm256_extractf128_ps(all, 1));
    return;
  }
  store_partial(p, words, count);
#else
  if (count == kLanes) return store(p, words);
  store_partial(p, words, count);
#endif
}

inline F32 load_first(const float* p, int count) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1), p));
#else
  return count == kLanes ? load(p) : load_partial(p, count);
#endif
}

// kLanes steps of `count` rows, of which only `contraction` elements are left, transposed.
template <GemmWord kWord, typename T>
void pack_row_edge(float* target, int width, int columns, const T* source, int64_t row_stride,
                   int count, int64_t contraction) {
  F32 words[kLanes] = {};
  for (int i = 0; i < count; ++i) {
    words[i] = load_words<kWord>(source + i * row_stride, contraction);
  }
  transpose(words);
  const int64_t steps = gemm_steps(contraction, kWord);
  for (int64_t j = 0; j < kLanes && j < steps; ++j) {
    store_first(target + j * width, words[j], columns);
  }
}

// `kRows` whole rows.
template <GemmWord kWord, int kRows, typename T>
void pack_row_vector(float* target, int width, const T* source, int64_t row_stride) {
  F32 words[kLanes] = {};
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) words[i] = load_words<kWord>(source + i * row_stride);
  transpose(words);
#pragma GCC unroll 16
  for (int j = 0; j < kLanes; ++j) store_first(target + j * width, words[j], kRows);
}

// Rows of the source are rows of A or columns of B.
template <GemmWord kWord, typename T>
void pack_rows(float* panel, int width, const T* source, int64_t row_stride, int count,
               int64_t contraction) {
  constexpr int64_t kBatch = kLanes * kElementsPerWord<kWord>;
  constexpr int kRowsOfA = kTileRows < kLanes ? kTileRows : kLanes;
  for (int first = 0; first < width; first += kLanes) {
    const int columns = width - first < kLanes ? width - first : kLanes;
    const int filled = count - first < columns ? count - first : columns;
    const T* row = source + first * row_stride;
    float* target = panel + first;
    for (int64_t k = 0; k < contraction; k += kBatch, target += kLanes * width) {
      const bool whole = k + kBatch <= contraction;
      if (whole && filled == kRowsOfA && columns == kRowsOfA) {
        pack_row_vector<kWord, kRowsOfA>(target, width, row + k, row_stride);
      } else if (whole && filled == kLanes) {
        pack_row_vector<kWord, kLanes>(target, width, row + k, row_stride);
      } else {
        pack_row_edge<kWord>(target, width, columns, row + k, row_stride, filled, contraction - k);
      }
    }
  }
}

// `steps` words of `columns` (at most kLanes) columns; pairs are whole. The rows `ahead` steps
// further are prefetched, and so is the place in the next panel.
template <GemmWord kWord, typename T>
void pack_column_vector(const GemmPack& args, float* target, int width, int columns, const T* row,
                        int64_t steps, int64_t ahead) {
  const int64_t row_stride = args.row_stride;
  const int64_t step_stride = kElementsPerWord<kWord> * row_stride;
  for (int64_t step = 0; step < steps; ++step, row += step_stride, target += width) {
    const T* row_ahead = row + ahead * step_stride;
    __builtin_prefetch(row_ahead, 0, 2);
    if constexpr (kElementsPerWord<kWord> == 2) __builtin_prefetch(row_ahead + row_stride, 0, 2);
    // Stores to lines that are not in the cache wait for one another; prefetches do not.
    __builtin_prefetch(target + args.panel_stride, 1);
    store_first(target, load_across<kWord>(row, row + row_stride), columns);
  }
}

// The first `count` of kLanes elements and zeros.
template <typename T>
void copy_first(T (&to)[kLanes], const T* from, int count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1U << count) - 1);
  if constexpr (sizeof(T) == 2) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_maskz_loadu_epi16(mask, from));
  } else {
    _mm512_storeu_ps(to, _mm512_maskz_loadu_ps(mask, from));
  }
#else
  for (int i = 0; i < kLanes; ++i) to[i] = i < count ? from[i] : T{};
#endif
}

// The words of the first `count` columns where only `left` elements of the contraction are left,
// at least one.
template <GemmWord kWord, typename T>
F32 load_across_edge(const T* row, int64_t row_stride, int count, int64_t left) {
  T first[kLanes];
  T second[kLanes] = {};
  copy_first(first, row, count);
  if (left > 1) copy_first(second, row + row_stride, count);
  return load_across<kWord>(first, second);
}

// The same where columns lie beyond the source, or the last pair is half.
template <GemmWord kWord, typename T>
void pack_column_edge(const GemmPack& args, float* target, int width, int columns, const T* row,
                      int64_t steps, int64_t left, int64_t contraction) {
  const int count = left <= 0 ? 0 : left < kLanes ? static_cast<int>(left) : kLanes;
  for (int64_t step = 0; step < steps; ++step, target += width) {
    const int64_t k = step * kElementsPerWord<kWord>;
    store_first(
        target,
        load_across_edge<kWord>(row + k * args.row_stride, args.row_stride, count, contraction - k),
        columns);
  }
}

// The contraction runs over the rows of the source; its columns are rows of A or columns of B. All
// panels are filled together, some steps at a time, so that the source is read in its order.
template <GemmWord kWord, typename T>
void pack_columns(const GemmPack& args, const T* source) {
  constexpr int64_t kStepBatch = 8;
  constexpr int64_t kNarrow = 256;
  constexpr int64_t kPerWord = kElementsPerWord<kWord>;
  const int64_t steps = gemm_steps(args.contraction, kWord);
  // About a fetch from memory: the less there is to do per step, the more steps.
  const int64_t most_ahead = args.extent <= kNarrow ? 4 * kStepBatch : kStepBatch;
  for (int64_t batch = 0; batch < steps; batch += kStepBatch) {
    const int64_t count = steps - batch < kStepBatch ? steps - batch : kStepBatch;
    const int64_t contraction = args.contraction - batch * kPerWord;
    const bool whole_pairs = contraction >= count * kPerWord;
    const int64_t ahead = steps - batch >= most_ahead + kStepBatch ? most_ahead : 0;
    const T* rows = source + batch * kPerWord * args.row_stride;
    for (int64_t panel = 0, column = 0; column < args.extent; ++panel, column += args.width) {
      const int64_t left = args.extent - column;
      const int width = args.halves_last && left <= args.width / 2 ? args.width / 2 : args.width;
      float* target = reinterpret_cast<float*>(args.panels) + panel * args.panel_stride +
                      (args.first_step + batch) * width;
      for (int offset = 0; offset < width; offset += kLanes) {
        const int columns = width - offset < kLanes ? width - offset : kLanes;
        const T* row = rows + column + offset;
        // What is read beyond the columns that are wanted is not stored.
        if (whole_pairs && left - offset >= columns &&
            args.readable_extent - column - offset >= kLanes) {
          pack_column_vector<kWord>(args, target + offset, width, columns, row, count, ahead);
        } else {
          pack_column_edge<kWord>(args, target + offset, width, columns, row, count, left - offset,
                                  contraction);
        }
      }
    }
  }
}

#if defined(SIDEWINDER_TILES)
// Where the words of a row of A begin that belong to the steps from `step` on.
float* row_of_tile(const GemmPack& args, int64_t row, int64_t step) {
  return reinterpret_cast<float*>(args.panels) + row / args.width * args.panel_stride +
         (args.first_step + step) * args.width + row % args.width * kTileSide;
}

// Rows of the source are rows of A: they are copied in pieces. Rows that a tile lacks are zeros.
template <typename T>
void pack_tile_rows(const GemmPack& args, const T* source) {
  constexpr int64_t kBatch = 2 * kTileSide;
  for (int64_t panel = 0; panel < args.extent; panel += args.width) {
    const int64_t left = args.extent - panel;
    const int64_t filled = left < args.width ? left : args.width;
    const int64_t rows = (filled + kTileSide - 1) / kTileSide * kTileSide;
    for (int64_t k = 0; k < args.contraction; k += kBatch) {
      float* target = row_of_tile(args, panel, k / 2);
      const T* row = source + panel * args.row_stride + k;
      for (int64_t i = 0; i < rows; ++i, target += kTileSide, row += args.row_stride) {
        const F32 words =
            i < filled ? load_words<GemmWord::bf16_pair>(row, args.contraction - k) : F32{};
        store(target, words);
      }
    }
  }
}

// Columns of the source are rows of A: a tile is transposed on its way. The words of rows that it
// lacks are zeros or those of other columns.
template <typename T>
void pack_tile_columns(const GemmPack& args, const T* source) {
  constexpr GemmWord kWord = GemmWord::bf16_pair;
  const int64_t stride = args.row_stride;
  for (int64_t k = 0; k < args.contraction; k += 2 * kTileSide) {
    const int64_t left = args.contraction - k;
    for (int64_t column = 0; column < args.extent; column += kTileSide) {
      const int64_t columns = args.extent - column;
      const bool whole = left >= 2 * kTileSide && args.readable_extent - column >= kTileSide;
      const int count = columns < kTileSide ? static_cast<int>(columns) : kTileSide;
      const T* row = source + k * stride + column;
      F32 words[kTileSide];
      for (int64_t j = 0; j < kTileSide; ++j, row += 2 * stride) {
        if (whole) {
          words[j] = load_across<kWord>(row, row + stride);
        } else {
          words[j] =
              left > 2 * j ? load_across_edge<kWord>(row, stride, count, left - 2 * j) : F32{};
        }
      }
      transpose(words);
      float* target = row_of_tile(args, column, k / 2);
      for (int64_t i = 0; i < kTileSide; ++i) store(target + i * kTileSide, words[i]);
    }
  }
}
#endif

template <GemmWord kWord, typename T>
void pack_as(const GemmPack& args) {
  const T* source = static_cast<const T*>(args.source);
#if defined(SIDEWINDER_TILES)
  if (kWord == GemmWord::bf16_pair && args.order == GemmOrder::by_tile) {
    return args.contracts_rows ? pack_tile_columns(args, source) : pack_tile_rows(args, source);
  }
#endif
  if (args.contracts_rows) {
    pack_columns<kWord>(args, source);
    return;
  }
  for (int64_t panel = 0, row = 0; row < args.extent; ++panel, row += args.width) {
    const int64_t left = args.extent - row;
    const int width = args.halves_last && left <= args.width / 2 ? args.width / 2 : args.width;
    pack_rows<kWord>(
        reinterpret_cast<float*>(args.panels) + panel * args.panel_stride + args.first_step * width,
        width, source + row * args.row_stride, args.row_stride,
        static_cast<int>(left < width ? left : width), args.contraction);
  }
}

template <GemmWord kWord>
void pack_word(const GemmPack& args) {
  if (args.element == GemmElement::f32) {
    pack_as<kWord, float>(args);
  } else {
    pack_as<kWord, uint16_t>(args);
  }
}

void pack(const GemmPack& args) {
  switch (args.word) {
    case GemmWord::f32: return pack_word<GemmWord::f32>(args);
#if defined(__AVX512BF16__)
    case GemmWord::bf16_pair: return pack_word<GemmWord::bf16_pair>(args);
#else
    case GemmWord::bf16_pair:
#endif
    case GemmWord::rounded_f32: return pack_word<GemmWord::rounded_f32>(args);
  }
}

// ---- multiplying ----

template <bool kPairs>
F32 multiply_add(F32 sum, F32 a, F32 b) {
#if defined(__AVX512F__)
  const auto s = reinterpret_cast<__m512>(sum);
#if defined(__AVX512BF16__)
  if constexpr (kPairs) {
    return reinterpret_cast<F32>(
        _mm512_dpbf16_ps(s, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
  }
#endif
  return reinterpret_cast<F32>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), s));
#elif defined(__AVX2__)
  return reinterpret_cast<F32>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(sum)));
#else
  return sum + a * b;
#endif
}

inline F32 broadcast_word(const float* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_set1_ps(*p));
#else
  return broadcast(*p);
#endif
}

inline F32 load_element(const void* p, int64_t offset, GemmElement element) {
  return element == GemmElement::f32 ? load(static_cast<const float*>(p) + offset)
                                     : load(static_cast<const uint16_t*>(p) + offset);
}

F32 load_element_partial(const void* p, int64_t offset, GemmElement element, int count) {
  if (element == GemmElement::f32) {
    return load_partial(static_cast<const float*>(p) + offset, count);
  }
  return load_partial(static_cast<const uint16_t*>(p) + offset, count);
}

// Adds what the output asks for to a vector of whole columns.
inline F32 finish(F32 sum, int64_t row, int64_t column, const GemmOutput& output) {
  if (output.bias != nullptr) sum += load(output.bias + column);
  if (output.residual != nullptr) {
    sum += load_element(output.residual, row * output.residual_stride + column,
                        output.residual_element);
  }
  if (output.previous != nullptr) {
    sum += load_element(output.previous, row * output.previous_stride + column,
                        output.previous_element);
  }
  return sum;
}

enum class TileStore : uint8_t { f32, f32_add, bf16, finished };

// Rows of at most two lines that the end of a tile reads or writes.
struct LastPiece {
  const char* data;
  int64_t stride;  // in bytes
  int rows;
  int second_line;  // in bytes from the beginning of a row
};

// The product of one panel of A and one of B goes to y as `how` says; rows of y are `stride`
// elements apart.
struct Tile {
  const float* a;
  const float* b;
  int64_t steps;
  void* y;
  int64_t stride;
  TileStore how;
  // Of a finished tile, whose first element is (row, column) of the output.
  const GemmOutput* output;
  int64_t row, column;
  LastPiece last[3];
  // What other tiles will need soon: every step prefetches a line of the panels of B and one of the
  // memory that the block names.
  const char* panel_ahead;
  int64_t panel_ahead_stride;
  const char* line_ahead;
  int64_t line_ahead_stride;
  const GemmPack* packs;  // the panel of A or of B that a packing tile fills while it multiplies
};

// Steps before the end at which the memory that a tile ends with is asked for: the panels of a long
// tile would drive what is asked for earlier out of the cache.
constexpr int64_t kLastSteps = 128;

[[gnu::always_inline]] inline void prefetch_last(const Tile& tile) {
  for (const LastPiece& piece : tile.last) {
    const char* line = piece.data;
    for (int r = 0; r < piece.rows; ++r, line += piece.stride) {
      __builtin_prefetch(line, 1);
      __builtin_prefetch(line + piece.second_line, 1);
    }
  }
}

template <GemmWord kWord>
struct SourceElement {
  using Type = uint16_t;
};
template <>
struct SourceElement<GemmWord::f32> {
  using Type = float;
};

// Fills a whole panel, step by step. What is multiplied has room for it: the arithmetic of a step
// takes longer than everything else.
template <GemmWord kWord, bool kOfA>
class StepPacker {
 public:
  using Element = typename SourceElement<kWord>::Type;
  static constexpr bool kPacks = true;

  explicit StepPacker(const Tile& tile)
      : row_(static_cast<const Element*>(tile.packs->source)),
        row_stride_(tile.packs->row_stride),
        target_(reinterpret_cast<float*>(tile.packs->panels)) {}

  [[gnu::always_inline]] void step() {
    const int64_t step_stride = kElementsPerWord<kWord> * row_stride_;
    const Element* ahead = row_ + kRowsAhead * row_stride_;
    __builtin_prefetch(ahead);
    if constexpr (kElementsPerWord<kWord> == 2) __builtin_prefetch(ahead + row_stride_);
    if constexpr (!kOfA && kWord == GemmWord::f32) __builtin_prefetch(ahead + kLanes);
#pragma GCC unroll 2
    for (int v = 0; v < (kOfA ? 1 : kTileVectors); ++v) {
      const Element* row = row_ + v * kLanes;
      store_first(target_ + v * kLanes, load_across<kWord>(row, row + row_stride_),
                  kOfA ? kTileRows : kLanes);
    }
    row_ += step_stride;
    target_ += kOfA ? kTileRows : kTileColumns;
  }

 private:
  // Rows often lie a power of two apart: more of them would not fit a set of the first-level cache.
  static constexpr int64_t kRowsAhead = 16;

  const Element* row_;
  int64_t row_stride_;
  float* target_;
};

struct NoPacker {
  static constexpr bool kPacks = false;
  explicit NoPacker(const Tile&) {}
  void step() {}
};

// Steps that packing is ahead of multiplying.
constexpr int64_t kPackedAhead = 16;
// A shorter panel is packed first.
constexpr int64_t kFewestPackedSteps = 2 * kLastSteps;

template <int kRows, int kVectors, bool kPairs, typename Packer = NoPacker>
void multiply_tile(const Tile& tile) {
  const float* a = tile.a;
  const float* b = tile.b;
  const char* panel_ahead = tile.panel_ahead;
  const char* line_ahead = tile.line_ahead;
  F32 sum[kRows][kVectors] = {};
  Packer packer(tile);
  const auto take_steps = [&](int64_t steps, auto packs) __attribute__((always_inline)) {
    for (int64_t step = steps; step > 0; --step) {
      if constexpr (packs) packer.step();
      __builtin_prefetch(panel_ahead, 0, 2);
      panel_ahead += tile.panel_ahead_stride;
      __builtin_prefetch(line_ahead, 0, 2);
      line_ahead += tile.line_ahead_stride;
      F32 columns[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) columns[v] = load(b + v * kLanes);
#pragma GCC unroll 14
      for (int r = 0; r < kRows; ++r) {
        const F32 row = broadcast_word(a + r);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          sum[r][v] = multiply_add<kPairs>(sum[r][v], row, columns[v]);
        }
      }
      a += kTileRows;
      b += kVectors * kLanes;
    }
  };
  constexpr std::bool_constant<Packer::kPacks> kPacks;
  const int64_t last_steps = tile.steps < kLastSteps ? tile.steps : kLastSteps;
  if constexpr (kPacks) {
    for (int64_t step = 0; step < kPackedAhead; ++step) packer.step();
  }
  take_steps(tile.steps - last_steps, kPacks);
  prefetch_last(tile);
  if constexpr (kPacks) {
    take_steps(last_steps - kPackedAhead, kPacks);
    take_steps(kPackedAhead, std::false_type{});
  } else {
    take_steps(last_steps, kPacks);
  }
  if (tile.how == TileStore::finished) {
    const GemmOutput& output = *tile.output;
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const F32 result = finish(sum[r][v], tile.row + r, tile.column + v * kLanes, output);
        const int64_t offset = r * tile.stride + v * kLanes;
        if (output.element == GemmElement::f32) {
          store(static_cast<float*>(tile.y) + offset, result);
        } else {
          store(static_cast<uint16_t*>(tile.y) + offset, result);
        }
      }
    }
    return;
  }
  if (tile.how == TileStore::bf16) {
    auto* y = static_cast<uint16_t*>(tile.y);
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r, y += tile.stride) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) store(y + v * kLanes, sum[r][v]);
    }
    return;
  }
  auto* y = static_cast<float*>(tile.y);
  if (tile.how == TileStore::f32_add) {
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r, y += tile.stride) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        store(y + v * kLanes, sum[r][v] + load(y + v * kLanes));
      }
    }
    return;
  }
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r, y += tile.stride) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(y + v * kLanes, sum[r][v]);
  }
}

using TileFunction = void (*)(const Tile&);

template <int kVectors, bool kPairs>
TileFunction tile_function(int64_t rows) {
  switch (rows) {
#if defined(__AVX512F__)
    case 14: return multiply_tile<14, kVectors, kPairs>;
    case 13: return multiply_tile<13, kVectors, kPairs>;
    case 12: return multiply_tile<12, kVectors, kPairs>;
    case 11: return multiply_tile<11, kVectors, kPairs>;
    case 10: return multiply_tile<10, kVectors, kPairs>;
    case 9: return multiply_tile<9, kVectors, kPairs>;
    case 8: return multiply_tile<8, kVectors, kPairs>;
    case 7: return multiply_tile<7, kVectors, kPairs>;
#endif
#if defined(__AVX2__)
    case 6: return multiply_tile<6, kVectors, kPairs>;
    case 5: return multiply_tile<5, kVectors, kPairs>;
#endif
    case 4: return multiply_tile<4, kVectors, kPairs>;
    case 3: return multiply_tile<3, kVectors, kPairs>;
    case 2: return multiply_tile<2, kVectors, kPairs>;
    default: return multiply_tile<1, kVectors, kPairs>;
  }
}

TileFunction tile_function(int64_t rows, int vectors, GemmWord word) {
#if defined(__AVX512BF16__)
  if (word == GemmWord::bf16_pair) {
    return vectors == 1 ? tile_function<1, true>(rows) : tile_function<2, true>(rows);
  }
#endif
  (void)word;
  return vectors == 1 ? tile_function<1, false>(rows) : tile_function<2, false>(rows);
}

template <bool kOfA>
TileFunction packing_tile_function(GemmWord word) {
  constexpr int kRows = kTileRows;
  constexpr int kVectors = kTileVectors;
  switch (word) {
    case GemmWord::f32:
      return multiply_tile<kRows, kVectors, false, StepPacker<GemmWord::f32, kOfA>>;
#if defined(__AVX512BF16__)
    case GemmWord::bf16_pair:
      return multiply_tile<kRows, kVectors, true, StepPacker<GemmWord::bf16_pair, kOfA>>;
#else
    case GemmWord::bf16_pair:
#endif
    case GemmWord::rounded_f32: break;
  }
  return multiply_tile<kRows, kVectors, false, StepPacker<GemmWord::rounded_f32, kOfA>>;
}

// The panel of an operand that begins with element `first` of its extent.
GemmPack panel_of(const GemmPack& all, int64_t first) {
  const int64_t size = all.element == GemmElement::f32 ? 4 : 2;
  GemmPack one = all;
  one.panels = all.panels + first / all.width * all.panel_stride;
  one.source = static_cast<const char*>(all.source) + first * size;
  one.extent = all.extent - first < all.width ? all.extent - first : all.width;
  one.readable_extent = all.readable_extent - first;
  return one;
}

// Whether a tile can fill the panel while it multiplies. Vectors are read whole.
bool packs_step_by_step(const GemmPack& panel, int64_t steps) {
  const bool as_they_are = (panel.element == GemmElement::f32) == (panel.word == GemmWord::f32);
  const int64_t elements = panel.word == GemmWord::bf16_pair ? 2 * steps : steps;
  return as_they_are && steps >= kFewestPackedSteps && panel.contraction == elements &&
         panel.extent == panel.width && panel.readable_extent >= kLanes;
}

// Adds what the output asks for to a tile and stores it. (row, column) is the tile's first element.
void finish_tile(const float* tile, int64_t rows, int64_t columns, int64_t row, int64_t column,
                 const GemmOutput& output) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t y_offset = (row + r) * output.stride + column;
    const int64_t residual_offset = (row + r) * output.residual_stride + column;
    const int64_t previous_offset = (row + r) * output.previous_stride + column;
    for (int64_t c = 0; c < columns; c += kLanes) {
      F32 sum = load(tile + r * kTileColumns + c);
      if (columns - c >= kLanes) {
        sum = finish(sum, row + r, column + c, output);
        if (output.element == GemmElement::f32) {
          store(static_cast<float*>(output.y) + y_offset + c, sum);
        } else {
          store(static_cast<uint16_t*>(output.y) + y_offset + c, sum);
        }
        continue;
      }
      const int count = static_cast<int>(columns - c);
      if (output.bias != nullptr) sum += load_partial(output.bias + column + c, count);
      if (output.residual != nullptr) {
        sum += load_element_partial(output.residual, residual_offset + c, output.residual_element,
                                    count);
      }
      if (output.previous != nullptr) {
        sum += load_element_partial(output.previous, previous_offset + c, output.previous_element,
                                    count);
      }
      if (output.element == GemmElement::f32) {
        store_partial(static_cast<float*>(output.y) + y_offset + c, sum, count);
      } else {
        store_partial(static_cast<uint16_t*>(output.y) + y_offset + c, sum, count);
      }
    }
  }
}

// Stores at most kLanes rows of a tile transposed, or adds them to what is there. (row, column) is
// their first element.
void finish_transposed_rows(const float* tile, int64_t rows, int64_t columns, int64_t row,
                            int64_t column, const GemmOutput& output) {
  const int count = static_cast<int>(rows);
  for (int64_t c = 0; c < columns; c += kLanes) {
    F32 words[kLanes] = {};
    for (int64_t r = 0; r < rows; ++r) words[r] = load(tile + r * kTileColumns + c);
    transpose(words);
    float* y = static_cast<float*>(output.y) + (column + c) * output.stride + row;
    for (int64_t i = 0; i < kLanes && c + i < columns; ++i, y += output.stride) {
      const F32 sum = output.previous == nullptr ? words[i] : words[i] + load_first(y, count);
      store_first(y, sum, count);
    }
  }
}

void finish_transposed_tile(const float* tile, int64_t rows, int64_t columns, int64_t row,
                            int64_t column, const GemmOutput& output) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t count = rows - r < kLanes ? rows - r : kLanes;
    finish_transposed_rows(tile + r * kTileColumns, count, columns, row + r, column, output);
  }
}

// The memory that a tile ends with; (row, column) is its first element.
void find_last(LastPiece (&last)[3], int64_t rows, int64_t columns, int64_t row, int64_t column,
               const GemmOutput& output) {
  if (output.transposed) {
    const float* first = static_cast<const float*>(output.y) + column * output.stride + row;
    last[0] = {reinterpret_cast<const char*>(first), output.stride * 4, static_cast<int>(columns),
               static_cast<int>(rows * 4 - 1)};
    return;
  }
  const auto piece = [&](const void* p, int64_t stride, GemmElement element) {
    const int64_t size = element == GemmElement::f32 ? 4 : 2;
    return LastPiece{static_cast<const char*>(p) + (row * stride + column) * size, stride * size,
                     static_cast<int>(rows), columns * size > kLine ? kLine : 0};
  };
  last[0] = piece(output.y, output.stride, output.element);
  if (output.residual != nullptr) {
    last[1] = piece(output.residual, output.residual_stride, output.residual_element);
  }
  if (output.previous != nullptr && output.previous != output.y) {
    last[2] = piece(output.previous, output.previous_stride, output.previous_element);
  }
}

// Whether there is nothing to add but what y holds.
bool is_plain(const GemmOutput& output) {
  if (output.bias != nullptr || output.residual != nullptr) return false;
  return output.previous == nullptr ||
         (output.previous == output.y && output.element == GemmElement::f32);
}

// Deals the lines of a GemmAhead out to the last tiles of a block: to every tile one line of as
// many rows as it has steps. Earlier ones would be driven out again.
class LinesAhead {
 public:
  LinesAhead(const GemmBlock& block, int64_t tiles) : ahead_(block.ahead), steps_(block.steps) {
    const int64_t lines = (ahead_.bytes + 2 * kLine - 2) / kLine;
    waits_ = tiles - lines * ((ahead_.rows + steps_ - 1) / steps_);
  }

  void give(Tile& tile) {
    if (waits_-- > 0 || offset_ >= ahead_.bytes) {
      tile.line_ahead = tile.panel_ahead;
      tile.line_ahead_stride = 0;
      return;
    }
    tile.line_ahead = static_cast<const char*>(ahead_.data) + row_ * ahead_.stride + offset_;
    tile.line_ahead_stride = ahead_.stride;
    row_ += steps_;
    if (row_ < ahead_.rows) return;
    row_ = 0;
    // The last byte is where a piece that begins within a line ends.
    offset_ = offset_ < ahead_.bytes - 1 && offset_ + kLine >= ahead_.bytes ? ahead_.bytes - 1
                                                                            : offset_ + kLine;
  }

 private:
  const GemmAhead& ahead_;
  int64_t steps_;
  int64_t waits_;  // tiles
  int64_t row_ = 0;
  int64_t offset_ = 0;
};

#if defined(SIDEWINDER_TILES)
// A tile of sums on its way to the output: some rows after every group of products of the next
// tile, because vector instructions work beside the tile registers. Where a contraction is short,
// this takes longer than the products.
class LeavingTile {
 public:
  // `groups`: of products of every tile.
  LeavingTile(const GemmOutput& output, int64_t groups) : output_(output) {
    const int64_t rows = (kPairRows.tile_rows + groups - 1) / groups;
    pace_ = output.transposed ? (rows + kLanes - 1) / kLanes * kLanes : rows;
  }

  // (row, column) is the first element. The tile before must have left.
  void begin(const float* sums, int64_t rows, int64_t columns, int64_t row, int64_t column) {
    next_ = sums;
    rows_ = rows;
    columns_ = columns;
    row_ = row;
    column_ = column;
  }
  void go_on() { leave(pace_); }
  void finish() { leave(rows_); }

 private:
  void leave(int64_t most) {
    const int64_t rows = rows_ < most ? rows_ : most;
    if (rows == 0) return;
    if (output_.transposed) {
      finish_transposed_tile(next_, rows, columns_, row_, column_, output_);
    } else {
      finish_tile(next_, rows, columns_, row_, column_, output_);
    }
    next_ += rows * kTileColumns;
    row_ += rows;
    rows_ -= rows;
  }

  const GemmOutput& output_;
  int64_t pace_;  // rows after a group
  const float* next_ = nullptr;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int64_t row_ = 0;
  int64_t column_ = 0;
};

// Adds the products of kTileSide steps to kRowTiles × kColumnTiles tiles of sums. All loads come
// first: they wait for the second-level cache together.
template <int kRowTiles, int kColumnTiles>
[[gnu::always_inline]] inline void multiply_group(Tiles& tiles, const float* a, const float* b) {
  const int64_t b_stride = kColumnTiles * kLine;
  tiles.load<4>(a, kLine);
  tiles.load<6>(b, b_stride);
  if constexpr (kColumnTiles == 2) tiles.load<7>(b + kTileSide, b_stride);
  if constexpr (kRowTiles == 2) tiles.load<5>(a + kTileSide * kTileSide, kLine);
  tiles.multiply<0, 4, 6>();
  if constexpr (kColumnTiles == 2) tiles.multiply<1, 4, 7>();
  if constexpr (kRowTiles == 2) tiles.multiply<2, 5, 6>();
  if constexpr (kRowTiles * kColumnTiles == 4) tiles.multiply<3, 5, 7>();
}

// What a tile of sums is made from: a panel of A and one of B.
struct TileProduct {
  const float* a;
  const float* b;
  int64_t steps;
  // Memory to ask for, this many bytes with every group of products.
  const char* ahead;
  int64_t ahead_bytes;
};

// The sums of kRowTiles × kColumnTiles tiles. The tile before leaves `sums` meanwhile.
template <int kRowTiles, int kColumnTiles>
void multiply_tiles(Tiles& tiles, const TileProduct& product, float* sums, LeavingTile& before) {
  constexpr int64_t kStepWords = kColumnTiles * kTileSide;  // of B
  const float* a = product.a;
  const float* b = product.b;
  const char* ahead = product.ahead;
  tiles.zero<0>();
  tiles.zero<1>();
  tiles.zero<2>();
  tiles.zero<3>();
  int64_t steps = product.steps;
  for (; steps >= kTileSide; steps -= kTileSide) {
    for (int64_t byte = 0; byte < product.ahead_bytes; byte += kLine) {
      __builtin_prefetch(ahead + byte, 0, 2);
    }
    ahead += product.ahead_bytes;
    multiply_group<kRowTiles, kColumnTiles>(tiles, a, b);
    before.go_on();
    a += kPairRows.tile_rows * kTileSide;
    b += kTileSide * kStepWords;
  }
  if (steps > 0) {
    // What lies behind the panel may be no number, even times the zeros that A ends with.
    alignas(kLine) float last[kTileSide * kStepWords] = {};
    __builtin_memcpy(last, b, static_cast<size_t>(4 * steps * kStepWords));
    multiply_group<kRowTiles, kColumnTiles>(tiles, a, last);
  }
  before.finish();
  constexpr int64_t kStride = 4 * kTileColumns;
  float* const lower = sums + kTileSide * kTileColumns;
  tiles.store<0>(sums, kStride);
  if constexpr (kColumnTiles == 2) tiles.store<1>(sums + kTileSide, kStride);
  if constexpr (kRowTiles == 2) tiles.store<2>(lower, kStride);
  if constexpr (kRowTiles * kColumnTiles == 4) tiles.store<3>(lower + kTileSide, kStride);
}

void multiply_pairs(const GemmBlock& block) {
  constexpr int64_t kPanelRows = kPairRows.tile_rows;
  Tiles tiles;
  alignas(kLine) float sums[kPanelRows * kTileColumns];
  // As in multiply(): the operand with fewer panels stays in the cache, and all tiles of a passing
  // panel share the prefetching of the next one.
  const int64_t a_panels = (block.rows + kPanelRows - 1) / kPanelRows;
  const int64_t b_panels = (block.columns + kTileColumns - 1) / kTileColumns;
  const bool a_stays = a_panels <= b_panels;
  const int64_t passing = a_stays ? b_panels : a_panels;
  const int64_t staying = a_stays ? a_panels : b_panels;
  const auto* a = reinterpret_cast<const float*>(block.a);
  const auto* b = reinterpret_cast<const float*>(block.b);
  const int64_t groups = (block.steps + kTileSide - 1) / kTileSide;
  constexpr int64_t kGroupLines = kPanelRows * kTileSide * 4 / kLine;
  static_assert(kPanelRows == kTileColumns);
  const int64_t ahead_bytes = (kGroupLines + staying - 1) / staying * kLine;
  LeavingTile before(block.output, groups);
  for (int64_t outer = 0; outer < passing; ++outer) {
    const int64_t next = outer + 1 < passing ? outer + 1 : outer;
    const auto* ahead = reinterpret_cast<const char*>(a_stays ? b + next * block.b_panel_stride +
                                                                    block.first_step * kTileColumns
                                                              : a + next * block.a_panel_stride);
    for (int64_t inner = 0; inner < staying; ++inner) {
      const int64_t a_panel = a_stays ? inner : outer;
      const int64_t b_panel = a_stays ? outer : inner;
      const int64_t row = a_panel * kPanelRows;
      const int64_t column = b_panel * kTileColumns;
      const int64_t rows = block.rows - row < kPanelRows ? block.rows - row : kPanelRows;
      const int64_t columns_left = block.columns - column;
      const int64_t columns = columns_left < kTileColumns ? columns_left : kTileColumns;
      if (block.packs_a != nullptr && column == 0) pack(panel_of(*block.packs_a, row));
      if (block.packs_b != nullptr && row == 0) pack(panel_of(*block.packs_b, column));
      const bool one_row = rows <= kTileSide;
      const bool one_column = columns <= kTileSide;
      const auto multiply_panels = one_row
                                       ? (one_column ? multiply_tiles<1, 1> : multiply_tiles<1, 2>)
                                       : (one_column ? multiply_tiles<2, 1> : multiply_tiles<2, 2>);
      const TileProduct product = {
          .a = a + a_panel * block.a_panel_stride,
          .b = b + b_panel * block.b_panel_stride +
               block.first_step * (one_column ? kTileSide : kTileColumns),
          .steps = block.steps,
          .ahead = ahead + inner * groups * ahead_bytes,
          .ahead_bytes = ahead_bytes,
      };
      multiply_panels(tiles, product, sums, before);
      before.begin(sums, rows, columns, row, column);
    }
  }
  before.finish();
}
#endif

void multiply(const GemmBlock& block) {
#if defined(SIDEWINDER_TILES)
  if (block.word == GemmWord::bf16_pair) return multiply_pairs(block);
#endif
  const GemmOutput& output = block.output;
  const auto* a = reinterpret_cast<const float*>(block.a);
  const auto* b = reinterpret_cast<const float*>(block.b);
  const bool plain = is_plain(output);
  const int64_t element_size = output.element == GemmElement::f32 ? 4 : 2;
  TileStore plain_store = TileStore::f32;
  if (output.element == GemmElement::bf16) plain_store = TileStore::bf16;
  if (output.previous != nullptr) plain_store = TileStore::f32_add;
  const TileStore whole_store = plain ? plain_store : TileStore::finished;
  alignas(64) float buffer[kTileRows * kTileColumns];
  // The operand with fewer panels stays in the cache, while the other one's pass by once. All tiles
  // of a passing panel share the prefetching of the next one.
  const int64_t a_panels = (block.rows + kTileRows - 1) / kTileRows;
  const int64_t b_panels = (block.columns + kTileColumns - 1) / kTileColumns;
  const bool a_stays = a_panels <= b_panels;
  const int64_t passing = a_stays ? b_panels : a_panels;
  const int64_t staying = a_stays ? a_panels : b_panels;
  LinesAhead lines_ahead(block, passing * staying);
  const int64_t passing_step_bytes = 4 * (a_stays ? kTileColumns : kTileRows);
  const int64_t passing_panel_stride = a_stays ? block.b_panel_stride : block.a_panel_stride;
  for (int64_t outer = 0; outer < passing; ++outer) {
    Tile tile{};
    tile.steps = block.steps;
    tile.panel_ahead = reinterpret_cast<const char*>(
        (a_stays ? b + block.first_step * kTileColumns : a) +
        (outer + 1 < passing ? outer + 1 : outer) * passing_panel_stride);
    tile.panel_ahead_stride = (passing_step_bytes + staying - 1) / staying;
    for (int64_t inner = 0; inner < staying; ++inner) {
      const int64_t row = (a_stays ? inner : outer) * kTileRows;
      const int64_t column = (a_stays ? outer : inner) * kTileColumns;
      const int64_t rows = block.rows - row < kTileRows ? block.rows - row : kTileRows;
      const int64_t columns_left = block.columns - column;
      const int64_t columns = columns_left < kTileColumns ? columns_left : kTileColumns;
      const int vectors = columns <= kLanes ? 1 : 2;
      find_last(tile.last, rows, columns, row, column, output);
      tile.a = a + (a_stays ? inner : outer) * block.a_panel_stride;
      tile.b = b + (a_stays ? outer : inner) * block.b_panel_stride +
               block.first_step * vectors * kLanes;
      lines_ahead.give(tile);
      const bool from_registers = columns == vectors * kLanes && !output.transposed;
      tile.y = buffer;
      tile.stride = kTileColumns;
      tile.how = TileStore::f32;
      if (from_registers) {
        tile.y = static_cast<char*>(output.y) + (row * output.stride + column) * element_size;
        tile.stride = output.stride;
        tile.how = whole_store;
        tile.output = &output;
        tile.row = row;
        tile.column = column;
      }
      TileFunction function = tile_function(rows, vectors, block.word);
      const bool whole = rows == kTileRows && vectors == kTileVectors;
      const bool packs_a = block.packs_a != nullptr && column == 0;
      GemmPack panel;
      if (packs_a || (block.packs_b != nullptr && row == 0)) {
        panel = packs_a ? panel_of(*block.packs_a, row) : panel_of(*block.packs_b, column);
        if (whole && packs_step_by_step(panel, block.steps)) {
          tile.packs = &panel;
          function = packs_a ? packing_tile_function<true>(block.word)
                             : packing_tile_function<false>(block.word);
        } else {
          pack(panel);
        }
      }
      function(tile);
      tile.panel_ahead += block.steps * tile.panel_ahead_stride;
      if (output.transposed) {
        finish_transposed_tile(buffer, rows, columns, row, column, output);
      } else if (!from_registers) {
        finish_tile(buffer, rows, columns, row, column, output);
      }
    }
  }
}

}  // namespace

extern const GemmKernels gemm_kernels = {kSingleRows, kPairRows, kTileColumns, kBlockSteps,
                                         kBf16Word,   pack,      multiply};

}  // namespace sidewinder::SIDEWINDER_ISA
