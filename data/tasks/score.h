#pragma once
// Scores of completions, as RULER (Hsieh et al. 2024) and the passkey test of YaRN (Peng et al.
// 2023) define them.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sidewinder {

// Share of the references that the completion contains, ASCII letters compared without case.
double contains_all(std::string_view completion, std::span<const std::string> references);

// The first run of digits; nullopt if there is none or its value exceeds 64 bits.
std::optional<int64_t> first_integer(std::string_view text);

// Averages over ascending lengths: plain, and with weights 1, 2, 3, … that favour long lengths
// (increasing) or short ones (decreasing).
struct LengthAverages {
  double mean = 0;
  double increasing = 0;
  double decreasing = 0;
};
LengthAverages length_averages(std::span<const double> scores);

// RULER's bar: what Llama-2-7B-chat reaches at 4K tokens, in percent.
inline constexpr double kRulerBar = 85.6;
// The longest length with a score of at least `bar`; 0: none.
int64_t effective_length(std::span<const int64_t> lengths, std::span<const double> scores,
                         double bar = kRulerBar);

}  // namespace sidewinder
