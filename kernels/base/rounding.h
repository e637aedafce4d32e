#pragma once
// Whole units. Not for sources of kernels/cpu/isa: a function that several levels of instructions
// share could be linked from the highest of them.

namespace sidewinder {

// ⌈value / unit⌉, of a value that is not negative.
template <typename Value, typename Unit>
constexpr auto divide_up(Value value, Unit unit) {
  return (value + unit - 1) / unit;
}

// The smallest multiple of `unit` from `value` on.
template <typename Value, typename Unit>
constexpr auto round_up(Value value, Unit unit) {
  return divide_up(value, unit) * unit;
}

}  // namespace sidewinder
