#pragma once
// Rotary angles, and their scaling to contexts longer than the model was trained for. Everything is
// formed in f64, and always from the original base and the total factor: scaling what is already
// scaled gives other frequencies. An f32 angle is off by 8e-3 rad at position 128 K already.
//
//   θ_i = base^(−2i/d)      angle of position p: p·θ_i      d = rotary_width, pairs i = 0 … d/2 − 1
//
// With s = factor and L = original_context, scaling replaces θ_i by
//   linear        θ_i / s                                  position interpolation, arXiv:2306.15595
//   ntk           θ_i of base b·s^(d/(d−2)): the last pair is divided by s, the first is kept
//   dynamic       θ_i of base b·α^(d/(d−2)), α = s·n/L − (s − 1), n = max(length, L); inference
//                 only
//
//   ntk_by_parts  θ_i·(1 − ρ_i) + θ_i/s·ρ_i; ρ is a ramp from 0 (kept) to 1 (divided)
//
//   yarn          the same; turned vectors also grow by rope_attention_factor, arXiv:2309.00071
//
//   longrope      θ_i / λ_i, λ = long_factors for lengths above L, else short_factors,
//                 arXiv:2402.13753
//
//   llama3        kept for wavelengths 2π/θ below L/high_frequency_factor, divided by s above
//                 L/low_frequency_factor, and between them blended by L/wavelength
//
// The ramp of ntk_by_parts and yarn: c(β) = d·ln(L/(2πβ)) / (2·ln b) is the pair index that makes β
// rotations over L. `index`, which released checkpoints use, is linear in the pair index from
// low = max(0, floor c(beta_fast)) to high = min(d − 1, ceil c(beta_slow)), without floor and ceil
// if not `truncate`. `rotations`, the paper's, is linear in the number of rotations L·θ/2π.

#include <cmath>
#include <cstdint>
#include <vector>

namespace sidewinder {

enum class RopeScalingKind : uint8_t {
  none,
  linear,
  ntk,
  dynamic,
  ntk_by_parts,
  yarn,
  longrope,
  llama3
};
enum class RopeRamp : uint8_t { index, rotations };

struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::none;
  double factor = 1.0;           // s, new context / original context, in total
  int64_t original_context = 0;  // L, tokens the unscaled frequencies were trained for

  // ntk_by_parts, yarn
  double beta_fast = 32.0;  // pairs with more rotations over L are kept
  double beta_slow = 1.0;   // pairs with fewer are divided by s
  RopeRamp ramp = RopeRamp::index;
  bool truncate = true;
  // yarn, longrope; 0: by formula
  double attention_factor = 0.0;
  // yarn: attention factor (0.1·mscale·ln s + 1) / (0.1·mscale_all_dim·ln s + 1) if both are set
  double mscale = 0.0;
  double mscale_all_dim = 0.0;

  // longrope: one divisor per pair
  std::vector<double> short_factors = {};
  std::vector<double> long_factors = {};

  // llama3
  double low_frequency_factor = 1.0;
  double high_frequency_factor = 4.0;

  bool operator==(const RopeScaling&) const = default;
};

struct RopeOptions {
  int64_t head_width = 64;
  int64_t rotary_width = 64;  // even, at most head_width; the rest of a head is not turned
  double base = 10000.0;      // the original one: ntk and dynamic derive theirs from it
  bool interleaved = false;   // pairs (2j, 2j+1) instead of (j, j + rotary_width/2)
  RopeScaling scaling = {};

  bool operator==(const RopeOptions&) const = default;
};

// Angle per position of pair j before scaling: base^(−2j / rotary_width).
inline double rope_frequency(const RopeOptions& options, int64_t pair) {
  return std::pow(options.base,
                  -2.0 * static_cast<double>(pair) / static_cast<double>(options.rotary_width));
}

// Angle of a position, reduced to [−π, π] before anything is rounded to f32.
inline double rope_angle(double frequency, int64_t position) {
  constexpr double kTwoPi = 6.283185307179586476925287;
  return std::remainder(frequency * static_cast<double>(position), kTwoPi);
}

// Error{user} naming what is wrong: widths, base, factor, betas, lengths of lists.
void check_rope(const RopeOptions& options);

// Angle per position of every pair, scaled. `length` is that of the sequence; it matters only to
// dynamic and longrope.
std::vector<double> rope_frequencies(const RopeOptions& options, int64_t length);

// ρ of every pair for ntk_by_parts, yarn and (1 − σ) llama3: the share that is divided by s. 0 for
// none, ntk, dynamic and longrope; 1 for linear.
std::vector<double> rope_ramp(const RopeOptions& options);

// What cos and sin are multiplied by, so that logits grow by its square: yarn 0.1·ln s + 1 (or from
// mscale), longrope √(1 + ln s / ln L), else 1; `attention_factor` where it is set. It multiplies
// the turned part of a head alone.
double rope_attention_factor(const RopeOptions& options);

// Two lengths with the same value have the same frequencies. 0 for kinds that do not look at it.
int64_t rope_length_class(const RopeOptions& options, int64_t length);
inline bool rope_depends_on_length(const RopeOptions& options) {
  return options.scaling.kind == RopeScalingKind::dynamic ||
         options.scaling.kind == RopeScalingKind::longrope;
}

}  // namespace sidewinder
