#pragma once
// Several vectors worked on in step. A chain of dependent operations (an exponential has a dozen)
// leaves the arithmetic units waiting; the chains of a few tokens side by side fill them.
//
// Products and sums are fused explicitly, so that a value does not depend on how many tokens share
// a pack.

#include <bit>

#include "kernels/cpu/isa/simd.h"

namespace sidewinder::SIDEWINDER_ISA {

// a·b + c with one rounding where the level has it.
[[gnu::always_inline]] inline F32 multiply_add(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__)
  return reinterpret_cast<F32>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

#if defined(__AVX512F__)
// a·b − c with one rounding.
[[gnu::always_inline]] inline F32 multiply_subtract(F32 a, F32 b, F32 c) {
  return reinterpret_cast<F32>(_mm512_fmsub_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
}
#endif

// a − b that is never fused with a product in a.
[[gnu::always_inline]] inline F32 subtract(F32 a, F32 b) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_sub_round_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _MM_FROUND_CUR_DIRECTION));
#else
  return a - b;
#endif
}

#if defined(__AVX512F__)
// a·b that is never fused with a sum it goes into.
[[gnu::always_inline]] inline F32 multiply(F32 a, F32 b) {
  return reinterpret_cast<F32>(_mm512_mul_round_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _MM_FROUND_CUR_DIRECTION));
}
#endif

template <int kCount>
struct Pack {
  F32 at[kCount];
};

// f of each vector of the packs; lockstep is kept operation by operation where f is one operation.
template <int kCount, typename Function, typename... Packs>
[[gnu::always_inline]] inline Pack<kCount> map(Function f, const Pack<kCount>& first,
                                               const Packs&... others) {
  Pack<kCount> result;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) result.at[i] = f(first.at[i], others.at[i]...);
  return result;
}

#if defined(__AVX512F__)
// The bits of s·2^(j/32), s as in Exp2, less j·2^18: adding k·2^18, where k mod 32 = j, makes the
// bits of s·2^(k/32).
alignas(64) inline constexpr int32_t kPowersLess[32] = {
    0x3e75fd82, 0x3e776072, 0x3e7870ca, 0x3e7740c9, 0x3e76208c, 0x3e75106b, 0x3e7410c1, 0x3e7321eb,
    0x3e724445, 0x3e717831, 0x3e70be12, 0x3e70164b, 0x3e6f8144, 0x3e6eff66, 0x3e6e911c, 0x3e6e36d4,
    0x3e6df0fe, 0x3e6dc00d, 0x3e6da475, 0x3e6d9eb0, 0x3e6daf36, 0x3e6dd685, 0x3e6e151c, 0x3e6e6b7f,
    0x3e6eda32, 0x3e6f61bd, 0x3e7002ad, 0x3e70bd8f, 0x3e7192f5, 0x3e728374, 0x3e738fa2, 0x3e74b81d,
};
// s·2^(j/32)
struct Powers {
  alignas(64) float at[32];
};
inline constexpr Powers kPowers = [] {
  Powers powers = {};
  for (int j = 0; j < 32; ++j) powers.at[j] = std::bit_cast<float>(kPowersLess[j] + (j << 18));
  return powers;
}();
#endif

// 2^x to 2 units in the last place, and 2^0 = 1. Adding 1.5·2^18 rounds x to k/32. What is left, at
// most 1/64, takes a parabola whose relative error is 5.3e-8, written around its vertex:
// 2^r = s·((r + centre)² + height). Its factor s is in the table of powers, and centre is a
// multiple of 2^-17, so that k/32 − centre is exact: one fused addition and one product are left.
class Exp2 {
 public:
  // 2^(a·b). The product is not rounded on the way.
  F32 power(F32 a, F32 b) const {
#if defined(__AVX512F__)
    const F32 shifted = multiply_add(a, b, magic_);
    const F32 whole = subtract(shifted, magic_);
    const F32 rest = multiply_subtract(a, b, subtract(whole, centre_));
    return finish(Pack<1>{shifted}, Pack<1>{whole}, Pack<1>{rest}).at[0];
#else
    return exp2(a * b);
#endif
  }

  // The same bits for |a·b| ≤ kNear, where the exponent can be added as an integer.
  static constexpr float kNear = 120.0F;
  F32 near(F32 a, F32 b) const {
#if defined(__AVX512F__)
    const F32 shifted = multiply_add(a, b, magic_);
    const F32 rest = multiply_subtract(a, b, subtract(subtract(shifted, magic_), centre_));
    return near_power(shifted) * multiply_add(rest, rest, height_);
#else
    return exp2(a * b);
#endif
  }

  template <bool kIsNear>
  F32 raise(F32 a, F32 b) const {
    return kIsNear ? near(a, b) : power(a, b);
  }

#if defined(__AVX512F__)
  // 2^(whole + r), where adding the magic number made `shifted` and `whole`, and rest = r + centre.
  template <int kCount>
  [[gnu::always_inline]] Pack<kCount> finish(const Pack<kCount>& shifted, const Pack<kCount>& whole,
                                             const Pack<kCount>& rest) const {
    const Pack<kCount> parabola = map([&](F32 r) { return multiply_add(r, r, height_); }, rest);
    const Pack<kCount> power = map([&](F32 s) { return entry(s); }, shifted);
    const Pack<kCount> scaled = map([](F32 p, F32 w) { return scale(p, w); }, power, whole);
    return map([](F32 p, F32 q) { return multiply(p, q); }, scaled, parabola);
  }
  F32 magic() const { return magic_; }
  F32 centre() const { return centre_; }

 private:
  // s·2^(k/32) where `shifted` holds k, |k| ≤ 32·kNear.
  F32 near_power(F32 shifted) const {
    const __m512i bits = reinterpret_cast<__m512i>(shifted);
    return reinterpret_cast<F32>(_mm512_add_epi32(_mm512_permutex2var_epi32(low_, bits, high_),
                                                  _mm512_slli_epi32(bits, 18)));
  }
  // s·2^(k/32 − ⌊k/32⌋)
  static F32 entry(F32 shifted) {
    return reinterpret_cast<F32>(_mm512_permutex2var_ps(_mm512_load_ps(kPowers.at),
                                                        reinterpret_cast<__m512i>(shifted),
                                                        _mm512_load_ps(kPowers.at + 16)));
  }
  // a·2^⌊b⌋
  static F32 scale(F32 a, F32 b) {
    return reinterpret_cast<F32>(
        _mm512_scalef_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
  }

  F32 magic_ = broadcast(393216.0F);
  F32 centre_ = broadcast(1.44272614F);
  F32 height_ = broadcast(2.08130789F);
  __m512i low_ = _mm512_load_si512(kPowersLess);
  __m512i high_ = _mm512_load_si512(kPowersLess + 16);
#endif
};

#if !defined(__AVX512F__)
// a·b − product, where product = fl(a·b): what the rounding of the product lost.
inline F32 product_error(F32 a, float b, F32 product) {
#if defined(__AVX2__)
  return multiply_add(a, broadcast(b), -product);
#else
  // Dekker's way: the products of halves of 12 bits are exact.
  const auto upper = [](F32 v) {
    return reinterpret_cast<F32>(reinterpret_cast<I32>(v) & static_cast<int32_t>(0xfffff000));
  };
  const F32 a_high = upper(a);
  const F32 b_high = upper(broadcast(b));
  const F32 a_low = a - a_high;
  const F32 b_low = b - b_high;
  return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}
#endif

// eˣ. x·log2 e is kept as a rounded part and an exact rest, as its own rounding would be an error
// of x·6e-8.
template <int kCount>
[[gnu::always_inline]] inline Pack<kCount> exp(const Pack<kCount>& x) {
#if defined(__AVX512F__)
  const Exp2 power;
  const F32 log2e = broadcast(kLog2E);
  const F32 log2e_low = broadcast(1.92596299e-8F);
  const Pack<kCount> shifted = map([&](F32 v) { return multiply_add(v, log2e, power.magic()); }, x);
  const Pack<kCount> whole = map([&](F32 v) { return subtract(v, power.magic()); }, shifted);
  const Pack<kCount> high =
      map([&](F32 v, F32 w) { return multiply_subtract(v, log2e, subtract(w, power.centre())); }, x,
          whole);
  const Pack<kCount> rest =
      map([&](F32 v, F32 h) { return multiply_add(v, log2e_low, h); }, x, high);
  return power.finish(shifted, whole, rest);
#else
  return map(
      [](F32 v) {
        const F32 high = v * kLog2E;
        const F32 low = product_error(v, kLog2E, high) + v * 1.92596299e-8F;
        const F32 power = exp2(high);
        const F32 corrected = power + power * (low * kLn2);
        return corrected == corrected ? corrected : power;  // not a number where x overflows
      },
      x);
#endif
}

// 1/x for 1e-37 < x < 1e37, to about one unit in the last place; a division occupies its unit for a
// dozen cycles.
template <int kCount>
[[gnu::always_inline]] inline Pack<kCount> reciprocal(const Pack<kCount>& x) {
#if defined(__AVX512F__)
  const Pack<kCount> guess = map(
      [](F32 v) { return reinterpret_cast<F32>(_mm512_rcp14_ps(reinterpret_cast<__m512>(v))); }, x);
  const Pack<kCount> error =
      map([](F32 v, F32 g) { return multiply_add(-v, g, broadcast(1.0F)); }, x, guess);
  return map([](F32 g, F32 e) { return multiply_add(g, e, g); }, guess, error);
#else
  return map([](F32 v) { return 1.0F / v; }, x);
#endif
}

// 1/(1 + e⁻ˣ). Below −80 it is e⁻⁸⁰, so that the power stays finite.
template <int kCount>
[[gnu::always_inline]] inline Pack<kCount> sigmoid(const Pack<kCount>& x) {
  const Pack<kCount> power = exp(map([](F32 v) { return v < -80.0F ? broadcast(80.0F) : -v; }, x));
  return reciprocal(map([](F32 p) { return 1.0F + p; }, power));
}

// The derivative of x·σ(x), with s = σ(x).
[[gnu::always_inline]] inline F32 silu_slope(F32 x, F32 s) {
  return s * multiply_add(x, 1.0F - s, broadcast(1.0F));
}

}  // namespace sidewinder::SIDEWINDER_ISA
