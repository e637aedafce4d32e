#include "kernels/cpu/isa/peak.h"

#include "kernels/cpu/isa/amx.h"
#include "kernels/cpu/isa/simd.h"

// A value that the compiler must have in a vector register here, and cannot see through.
#if defined(__x86_64__)
#define SIDEWINDER_OPAQUE(value) asm volatile("" : "+v"(value))
#elif defined(__aarch64__)
#define SIDEWINDER_OPAQUE(value) asm volatile("" : "+w"(value))
#else
#define SIDEWINDER_OPAQUE(value) asm volatile("" : "+m"(value))
#endif

namespace sidewinder::SIDEWINDER_ISA {
namespace {

using F64 = double __attribute__((vector_size(kLanes * 4)));

// Independent sums: two instructions start in every cycle and take up to eight cycles, so 16 are
// needed; where there are 16 registers in all, 12 must do. They are single variables because GCC
// keeps the elements of an array in memory when asm statements name them.
#if defined(__AVX512F__)
inline constexpr int kSums = 16;
#define SIDEWINDER_FOR_EACH_SUM(apply)                                                      \
  apply(0) apply(1) apply(2) apply(3) apply(4) apply(5) apply(6) apply(7) apply(8) apply(9) \
      apply(10) apply(11) apply(12) apply(13) apply(14) apply(15)
#else
inline constexpr int kSums = 12;
#define SIDEWINDER_FOR_EACH_SUM(apply)                                                      \
  apply(0) apply(1) apply(2) apply(3) apply(4) apply(5) apply(6) apply(7) apply(8) apply(9) \
      apply(10) apply(11)
#endif
#define SIDEWINDER_DECLARE_SUM(k) auto sum##k = zero + k;
#define SIDEWINDER_ADD_TO_SUM(k) \
  sum##k = add(sum##k);          \
  SIDEWINDER_OPAQUE(sum##k);

// Repeats sum = add(sum) on every sum.
template <typename Vector, typename Add>
inline void run_sums(int64_t rounds, Vector zero, Add&& add) {
  SIDEWINDER_FOR_EACH_SUM(SIDEWINDER_DECLARE_SUM)
  for (int64_t round = 0; round < rounds; ++round) {
    SIDEWINDER_FOR_EACH_SUM(SIDEWINDER_ADD_TO_SUM)
  }
}

template <typename Vector>
void multiply_add(int64_t rounds) {
  Vector factor = Vector{} + 1;
  Vector term = factor;
  factor /= 2;
  SIDEWINDER_OPAQUE(factor);
  SIDEWINDER_OPAQUE(term);
  run_sums(rounds, Vector{}, [&](Vector sum) { return sum * factor + term; });
}

// Products of bf16 pairs with f32 sums.
#if defined(SIDEWINDER_TILES)
inline constexpr int kTileProducts = 4;
inline constexpr double kBf16FlopsPerRound =
    4.0 * kTileProducts * kTileSide * kTileSide * kTileSide;

void bf16_dot(int64_t rounds) {
  // Many different numbers: of zeros, say, the same instructions make more than twice as many.
  alignas(64) uint32_t pairs[kTileSide * kTileSide];
  for (uint32_t i = 0; i < kTileSide * kTileSide; ++i) pairs[i] = 0x3f003f00 + 0x00010001 * i;
  const auto* words = reinterpret_cast<const float*>(pairs);
  constexpr int64_t kRow = 4 * kTileSide;
  Tiles tiles;
  tiles.load<4>(words, kRow);
  tiles.load<5>(words, kRow);
  tiles.load<6>(words, kRow);
  tiles.load<7>(words, kRow);
  for (int64_t round = 0; round < rounds; ++round) {
    tiles.multiply<0, 4, 6>();
    tiles.multiply<1, 4, 7>();
    tiles.multiply<2, 5, 6>();
    tiles.multiply<3, 5, 7>();
  }
}
#elif defined(__AVX512BF16__)
inline constexpr double kBf16FlopsPerRound = 4.0 * kSums * kLanes;

void bf16_dot(int64_t rounds) {
  __m512i halves = _mm512_set1_epi32(0x3f003f00);  // pairs of 0.5
  SIDEWINDER_OPAQUE(halves);
  const auto pairs = reinterpret_cast<__m512bh>(halves);
  run_sums(rounds, F32{}, [&](F32 sum) {
    return reinterpret_cast<F32>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), pairs, pairs));
  });
}
#else
inline constexpr double kBf16FlopsPerRound = 0;
inline constexpr void (*bf16_dot)(int64_t) = nullptr;
#endif

inline constexpr int kExps = 4;

void exponentials(int64_t rounds) {
  F32 x[kExps];
  for (int k = 0; k < kExps; ++k) x[k] = broadcast(-0.3F * static_cast<float>(k + 1));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 4
    for (int k = 0; k < kExps; ++k) {
      SIDEWINDER_OPAQUE(x[k]);
      F32 y = exp2(x[k]);
      SIDEWINDER_OPAQUE(y);
    }
  }
}

void read(const float* from, int64_t count) {
  for (int64_t i = 0; i + 4 * kLanes <= count; i += 4 * kLanes) {
    F32 values[4];
    for (int k = 0; k < 4; ++k) {
      // Without it some 8 % less arrives: the hardware stops at the end of every page. Past the end
      // it does no harm.
      __builtin_prefetch(from + i + k * kLanes + 256);
      values[k] = load(from + i + k * kLanes);
      SIDEWINDER_OPAQUE(values[k]);
    }
  }
}

void copy(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i + kLanes <= count; i += kLanes) {
    F32 value = load(from + i);
    SIDEWINDER_OPAQUE(value);  // or the loop would become a call of memcpy
    store(to + i, value);
  }
}

}  // namespace

extern const PeakLoops peak_loops = {
    .f32_flops_per_round = 2.0 * kSums * kLanes,
    .bf16_flops_per_round = kBf16FlopsPerRound,
    .f64_flops_per_round = 1.0 * kSums * kLanes,
    .exps_per_round = 1.0 * kExps * kLanes,
    .f32 = multiply_add<F32>,
    .bf16 = bf16_dot,
    .f64 = multiply_add<F64>,
    .exp = exponentials,
    .read = read,
    .copy = copy,
};

}  // namespace sidewinder::SIDEWINDER_ISA
