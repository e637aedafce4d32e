#pragma once
// Several vectors worked on in step. A chain of dependent operations (an exponential has a dozen)
// leaves the arithmetic units waiting; the chains of a few tokens side by side fill them.
//
// Products and sums are fused explicitly, so that a value does not depend on how many tokens share
// a pack.

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
// 2^(j/16)
alignas(64) inline constexpr float kSixteenths[16] = {
    1.0F,        1.04427378F, 1.09050773F, 1.13878863F, 1.18920712F, 1.24185781F,
    1.29683955F, 1.35425555F, 1.41421356F, 1.47682615F, 1.54221083F, 1.61049033F,
    1.68179283F, 1.75625216F, 1.83400809F, 1.91520656F};
// Their bits less j·2^19: adding k·2^19, where k mod 16 = j, makes the bits of 2^(k/16).
alignas(64) inline constexpr int32_t kSixteenthsLess[16] = {
    0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
    0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
#endif

// 2^x to 1.5 units in the last place. Adding 1.5·2^19 rounds x to sixteenths; the last four bits of
// their number select 2^(fraction) from a table, the others are the exponent. The rest, at most
// 1/32, takes a cubic.
class Exp2 {
 public:
  // 2^(a·b). The product is not rounded on the way.
  F32 power(F32 a, F32 b) const {
#if defined(__AVX512F__)
    const F32 shifted = multiply_add(a, b, magic_);
    const F32 sixteenths = subtract(shifted, magic_);
    return finish(Pack<1>{shifted}, Pack<1>{sixteenths},
                  Pack<1>{multiply_subtract(a, b, sixteenths)})
        .at[0];
#else
    return exp2(a * b);
#endif
  }

  // The same bits for |a·b| ≤ kNear, where the exponent can be added as an integer.
  static constexpr float kNear = 125.0F;
  F32 near(F32 a, F32 b) const {
#if defined(__AVX512F__)
    const F32 shifted = multiply_add(a, b, magic_);
    const F32 rest = multiply_subtract(a, b, subtract(shifted, magic_));
    const __m512i bits = reinterpret_cast<__m512i>(shifted);
    const __m512i less = _mm512_permutexvar_epi32(bits, _mm512_load_si512(kSixteenthsLess));
    const F32 power = reinterpret_cast<F32>(_mm512_add_epi32(less, _mm512_slli_epi32(bits, 19)));
    const F32 slope = multiply_add(multiply_add(cubic_, rest, square_), rest, linear_);
    return multiply_add(rest * power, slope, power);
#else
    return exp2(a * b);
#endif
  }

  template <bool kIsNear>
  F32 raise(F32 a, F32 b) const {
    return kIsNear ? near(a, b) : power(a, b);
  }

#if defined(__AVX512F__)
  // 2^(sixteenths + rest), where adding the magic number made `shifted` and `sixteenths`.
  template <int kCount>
  [[gnu::always_inline]] Pack<kCount> finish(const Pack<kCount>& shifted,
                                             const Pack<kCount>& sixteenths,
                                             const Pack<kCount>& rest) const {
    const Pack<kCount> power = map([&](F32 s) { return entry(s); }, shifted);
    const Pack<kCount> square = map([&](F32 r) { return multiply_add(cubic_, r, square_); }, rest);
    const Pack<kCount> slope =
        map([&](F32 q, F32 r) { return multiply_add(q, r, linear_); }, square, rest);
    const Pack<kCount> scaled = map([](F32 r, F32 p) { return r * p; }, rest, power);
    const Pack<kCount> sum =
        map([](F32 r, F32 q, F32 p) { return multiply_add(r, q, p); }, scaled, slope, power);
    return map([](F32 a, F32 b) { return scale(a, b); }, sum, sixteenths);
  }
  F32 magic() const { return magic_; }

 private:
  static F32 entry(F32 shifted) {
    return reinterpret_cast<F32>(
        _mm512_permutexvar_ps(reinterpret_cast<__m512i>(shifted), _mm512_load_ps(kSixteenths)));
  }
  // a·2^⌊b⌋
  static F32 scale(F32 a, F32 b) {
    return reinterpret_cast<F32>(
        _mm512_scalef_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
  }

  F32 magic_ = broadcast(786432.0F);
  F32 cubic_ = broadcast(5.5504109e-2F);
  F32 square_ = broadcast(2.4022651e-1F);
  F32 linear_ = broadcast(kLn2);
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
  const Pack<kCount> high = map([&](F32 v, F32 w) { return multiply_add(v, log2e, -w); }, x, whole);
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
