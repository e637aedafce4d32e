#pragma once
// Rotary angles. Angles are formed in f64 and reduced there: an f32 angle is off by 8e-3 rad at
// position 128 K already.

#include <cmath>
#include <cstdint>

namespace sidewinder {

struct RopeOptions {
  int64_t head_width = 64;
  int64_t rotary_width = 64;  // even, at most head_width; the rest of a head is not turned
  double base = 10000.0;
  bool interleaved = false;
};

// Angle per position of pair j: base^(−2j / rotary_width).
inline double rope_frequency(const RopeOptions& options, int64_t pair) {
  return std::pow(options.base,
                  -2.0 * static_cast<double>(pair) / static_cast<double>(options.rotary_width));
}

// Angle of a position, reduced to [−π, π] before anything is rounded to f32.
inline double rope_angle(double frequency, int64_t position) {
  constexpr double kTwoPi = 6.283185307179586476925287;
  return std::remainder(frequency * static_cast<double>(position), kTwoPi);
}

}  // namespace sidewinder
