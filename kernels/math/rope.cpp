#include "kernels/math/rope.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr double kTwoPi = 6.283185307179586476925287;

bool uses_ramp(RopeScalingKind kind) {
  return kind == RopeScalingKind::ntk_by_parts || kind == RopeScalingKind::yarn;
}

// The base that divides the last frequency by `factor` and keeps the first.
double stretched_base(const RopeOptions& options, double factor) {
  const double d = static_cast<double>(options.rotary_width);
  return options.base * std::pow(factor, d / (d - 2.0));
}

double dynamic_factor(const RopeScaling& scaling, int64_t length) {
  const double n = static_cast<double>(std::max(length, scaling.original_context));
  return scaling.factor * n / static_cast<double>(scaling.original_context) -
         (scaling.factor - 1.0);
}

// The pair index that makes `rotations` turns over the original context.
double pair_of_rotations(const RopeOptions& options, double rotations) {
  return static_cast<double>(options.rotary_width) *
         std::log(static_cast<double>(options.scaling.original_context) / (rotations * kTwoPi)) /
         (2.0 * std::log(options.base));
}

double index_ramp(const RopeOptions& options, int64_t pair) {
  const RopeScaling& scaling = options.scaling;
  double low = pair_of_rotations(options, scaling.beta_fast);
  double high = pair_of_rotations(options, scaling.beta_slow);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  // d − 1 and not d/2 − 1: so have all released models been made.
  high = std::min(high, static_cast<double>(options.rotary_width - 1));
  if (low == high) high += 0.001;
  return std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
}

double rotations_ramp(const RopeOptions& options, int64_t pair) {
  const RopeScaling& scaling = options.scaling;
  const double rotations =
      static_cast<double>(scaling.original_context) * rope_frequency(options, pair) / kTwoPi;
  return 1.0 - std::clamp((rotations - scaling.beta_slow) / (scaling.beta_fast - scaling.beta_slow),
                          0.0, 1.0);
}

double llama3_ramp(const RopeOptions& options, int64_t pair) {
  const RopeScaling& scaling = options.scaling;
  const double length = static_cast<double>(scaling.original_context);
  const double wavelength = kTwoPi / rope_frequency(options, pair);
  if (wavelength < length / scaling.high_frequency_factor) return 0.0;
  if (wavelength > length / scaling.low_frequency_factor) return 1.0;
  return 1.0 - (length / wavelength - scaling.low_frequency_factor) /
                   (scaling.high_frequency_factor - scaling.low_frequency_factor);
}

double yarn_growth(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void check_divisors(const char* name, const std::vector<double>& divisors, int64_t pairs) {
  SIDEWINDER_REQUIRE(static_cast<int64_t>(divisors.size()) == pairs,
                     "rope: {} has {} numbers but there are {} pairs; give one per pair", name,
                     divisors.size(), pairs);
  for (const double divisor : divisors) {
    SIDEWINDER_REQUIRE(std::isfinite(divisor) && divisor > 0,
                       "rope: {} has {}; a frequency is divided by it, so it must be positive",
                       name, divisor);
  }
}

void check_scaling(const RopeOptions& options) {
  const RopeScaling& scaling = options.scaling;
  SIDEWINDER_REQUIRE(std::isfinite(scaling.factor) && scaling.factor >= 1.0,
                     "rope: factor {} would shrink the context; it must be at least 1",
                     scaling.factor);
  const bool needs_original =
      scaling.kind != RopeScalingKind::linear && scaling.kind != RopeScalingKind::ntk;
  SIDEWINDER_REQUIRE(scaling.original_context > (needs_original ? 0 : -1),
                     "rope: original context {} must be positive", scaling.original_context);
  SIDEWINDER_REQUIRE(scaling.attention_factor >= 0 && std::isfinite(scaling.attention_factor),
                     "rope: attention factor {} must be positive, or 0 for that of the formula",
                     scaling.attention_factor);
  switch (scaling.kind) {
    case RopeScalingKind::ntk:
    case RopeScalingKind::dynamic:
      SIDEWINDER_REQUIRE(options.rotary_width > 2,
                         "rope: a changed base needs at least two pairs but rotary width is {}",
                         options.rotary_width);
      break;
    case RopeScalingKind::ntk_by_parts:
    case RopeScalingKind::yarn:
      SIDEWINDER_REQUIRE(options.base > 1.0, "rope: a ramp needs a base above 1, not {}",
                         options.base);
      SIDEWINDER_REQUIRE(scaling.beta_slow > 0 && scaling.beta_fast > scaling.beta_slow,
                         "rope: beta_fast {} must be above beta_slow {}, and both positive",
                         scaling.beta_fast, scaling.beta_slow);
      break;
    case RopeScalingKind::longrope:
      SIDEWINDER_REQUIRE(scaling.original_context > 1,
                         "rope: original context {} must be above 1 for longrope",
                         scaling.original_context);
      check_divisors("short_factors", scaling.short_factors, options.rotary_width / 2);
      check_divisors("long_factors", scaling.long_factors, options.rotary_width / 2);
      break;
    case RopeScalingKind::llama3:
      SIDEWINDER_REQUIRE(scaling.low_frequency_factor > 0 &&
                             scaling.high_frequency_factor > scaling.low_frequency_factor,
                         "rope: high_frequency_factor {} must be above low_frequency_factor {}, "
                         "and both positive",
                         scaling.high_frequency_factor, scaling.low_frequency_factor);
      break;
    case RopeScalingKind::none:
    case RopeScalingKind::linear: break;
  }
}

}  // namespace

void check_rope(const RopeOptions& options) {
  SIDEWINDER_REQUIRE(options.rotary_width >= 2 && options.rotary_width % 2 == 0 &&
                         options.rotary_width <= options.head_width,
                     "rope: rotary width {} of heads {} wide; it must be even and from 2 to the "
                     "head width",
                     options.rotary_width, options.head_width);
  SIDEWINDER_REQUIRE(std::isfinite(options.base) && options.base > 0,
                     "rope: base {} must be a positive number", options.base);
  if (options.scaling.kind != RopeScalingKind::none) check_scaling(options);
}

std::vector<double> rope_ramp(const RopeOptions& options) {
  check_rope(options);
  const RopeScaling& scaling = options.scaling;
  std::vector<double> ramp(static_cast<size_t>(options.rotary_width / 2), 0.0);
  for (size_t i = 0; i < ramp.size(); ++i) {
    const int64_t pair = static_cast<int64_t>(i);
    if (scaling.kind == RopeScalingKind::linear) ramp[i] = 1.0;
    if (scaling.kind == RopeScalingKind::llama3) ramp[i] = llama3_ramp(options, pair);
    if (!uses_ramp(scaling.kind)) continue;
    ramp[i] =
        scaling.ramp == RopeRamp::index ? index_ramp(options, pair) : rotations_ramp(options, pair);
  }
  return ramp;
}

std::vector<double> rope_frequencies(const RopeOptions& options, int64_t length) {
  const std::vector<double> ramp = rope_ramp(options);
  const RopeScaling& scaling = options.scaling;
  RopeOptions stretched = options;
  if (scaling.kind == RopeScalingKind::ntk) {
    stretched.base = stretched_base(options, scaling.factor);
  } else if (scaling.kind == RopeScalingKind::dynamic) {
    stretched.base = stretched_base(options, dynamic_factor(scaling, length));
  }
  std::vector<double> frequencies(ramp.size());
  for (size_t i = 0; i < ramp.size(); ++i) {
    double frequency = rope_frequency(stretched, static_cast<int64_t>(i));
    if (scaling.kind == RopeScalingKind::longrope) {
      frequency /=
          length > scaling.original_context ? scaling.long_factors[i] : scaling.short_factors[i];
    }
    frequencies[i] = ramp[i] == 0
                         ? frequency
                         : frequency * (1.0 - ramp[i]) + frequency / scaling.factor * ramp[i];
  }
  return frequencies;
}

double rope_attention_factor(const RopeOptions& options) {
  const RopeScaling& scaling = options.scaling;
  const double s = scaling.factor;
  if (scaling.kind == RopeScalingKind::yarn) {
    if (scaling.attention_factor != 0) return scaling.attention_factor;
    if (scaling.mscale != 0 && scaling.mscale_all_dim != 0) {
      return yarn_growth(s, scaling.mscale) / yarn_growth(s, scaling.mscale_all_dim);
    }
    return yarn_growth(s, 1.0);
  }
  if (scaling.kind == RopeScalingKind::longrope) {
    if (scaling.attention_factor != 0) return scaling.attention_factor;
    return s <= 1.0 ? 1.0
                    : std::sqrt(1.0 + std::log(s) /
                                          std::log(static_cast<double>(scaling.original_context)));
  }
  return 1.0;
}

int64_t rope_length_class(const RopeOptions& options, int64_t length) {
  const int64_t original = options.scaling.original_context;
  switch (options.scaling.kind) {
    case RopeScalingKind::dynamic: return std::max(length, original);
    case RopeScalingKind::longrope: return length > original ? 1 : 0;
    default: return 0;
  }
}

}  // namespace sidewinder
