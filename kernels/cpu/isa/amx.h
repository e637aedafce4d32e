#pragma once
// The tile registers of Intel AMX, as far as products of bf16 use them. A tile has 16 rows of 16
// words of 32 bits: f32 sums, or pairs of bf16. With SIDEWINDER_AMX defined they are the CPU's; with
// SIDEWINDER_AMX_MODEL a model with the documented arithmetic stands in for them, so that everything
// around them can be tested on other CPUs. Sources compiled without either have no tiles.
//
// Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: LDTILECFG, TDPBF16PS.

#include <cstdint>

#if defined(SIDEWINDER_AMX) || defined(SIDEWINDER_AMX_MODEL)
#define SIDEWINDER_TILES

#include <immintrin.h>

namespace sidewinder::SIDEWINDER_ISA {

inline constexpr int kTileSide = 16;  // rows, and words of a row
inline constexpr int kNumTiles = 8;

// The tiles of the calling thread while an object of this class lives: they begin as zeros. Strides
// are in bytes.
#if defined(SIDEWINDER_AMX)

class Tiles {
 public:
  Tiles() {
    Configuration configuration{};
    configuration.palette = 1;
    for (int i = 0; i < kNumTiles; ++i) {
      configuration.row_bytes[i] = 4 * kTileSide;
      configuration.rows[i] = kTileSide;
    }
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // Not the compiler's intrinsics: GCC's take the number of a register as a literal only.
  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  void load(const float* data, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(data), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void store(float* data, int64_t stride) const {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(data), "r"(stride), "i"(kTile) : "memory");
  }
  // sum += A · B: rows of A are rows of the sum, their words pairs along the contraction; row k of
  // B holds the pairs k of all columns.
  template <int kSum, int kA, int kB>
  void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
  }

 private:
  struct alignas(64) Configuration {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  static_assert(sizeof(Configuration) == 64);
};

#else

class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int kTile>
  void zero() {
    __builtin_memset(tiles_[kTile], 0, sizeof(Tile));
  }
  template <int kTile>
  void load(const float* data, int64_t stride) {
    const char* row = reinterpret_cast<const char*>(data);
    for (int m = 0; m < kTileSide; ++m, row += stride) {
      __builtin_memcpy(tiles_[kTile][m], row, sizeof(tiles_[kTile][m]));
    }
  }
  template <int kTile>
  void store(float* data, int64_t stride) const {
    char* row = reinterpret_cast<char*>(data);
    for (int m = 0; m < kTileSide; ++m, row += stride) {
      __builtin_memcpy(row, tiles_[kTile][m], sizeof(tiles_[kTile][m]));
    }
  }
  template <int kSum, int kA, int kB>
  void multiply() {
    // Subnormal operands and results count as zero and rounding is to nearest even, whatever the
    // thread's own settings; the masks keep exceptions away.
    constexpr unsigned kControl = 0x9fc0U;
    const unsigned control = _mm_getcsr();
    _mm_setcsr(kControl);
    multiply_rows(tiles_[kSum], tiles_[kA], tiles_[kB]);
    _mm_setcsr(control);
  }

 private:
  using Tile = uint32_t[kTileSide][kTileSide];

  static float float_of(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  }
  // Of a pair, the earlier and the later element.
  static float even(uint32_t pair) { return float_of(pair << 16); }
  static float odd(uint32_t pair) { return float_of(pair & 0xffff0000U); }

  // A function of its own, so that no arithmetic leaves the bracket around it.
  [[gnu::noinline]] static void multiply_rows(Tile& sum, const Tile& a, const Tile& b) {
    for (int m = 0; m < kTileSide; ++m) {
      float evens[kTileSide] = {};
      float odds[kTileSide] = {};
      for (int k = 0; k < kTileSide; ++k) {
        for (int n = 0; n < kTileSide; ++n) {
          evens[n] = __builtin_fmaf(even(a[m][k]), even(b[k][n]), evens[n]);
          odds[n] = __builtin_fmaf(odd(a[m][k]), odd(b[k][n]), odds[n]);
        }
      }
      for (int n = 0; n < kTileSide; ++n) {
        const float result = float_of(sum[m][n]) + (evens[n] + odds[n]);
        __builtin_memcpy(&sum[m][n], &result, sizeof result);
      }
    }
  }

  alignas(64) Tile tiles_[kNumTiles] = {};
};

#endif

}  // namespace sidewinder::SIDEWINDER_ISA

#endif
