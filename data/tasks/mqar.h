#pragma once
// Multi-query associative recall over token ids (Arora et al., "Zoology", 2023).

#include <cstdint>
#include <vector>

namespace sidewinder {

// Probability of each of `slots` places of a query before any is taken: p(g) ∝ a·g^(a-1), g = 1 ….
std::vector<double> mqar_slot_probabilities(int64_t slots, double a = 0.01);

}  // namespace sidewinder
