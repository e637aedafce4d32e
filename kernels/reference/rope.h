#pragma once
// Rotary embedding as a plain loop: the oracle of the fast kernel, and the kernel of f64 tensors.

#include <cstdint>

namespace sidewinder::reference {

// One head of one token, `width` elements of which the first 2 · pairs are turned. x may be y.
struct RopeHead {
  int64_t width;
  int64_t pairs;
  bool interleaved;
  bool inverse;
};
void rope_head(const RopeHead& head, const double* x, const double* cosine, const double* sine,
               double* y);

}  // namespace sidewinder::reference
