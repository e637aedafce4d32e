#pragma once
// The sum of squares by a plain loop, f64.

#include "kernels/ops/norm_sq.h"

namespace sidewinder::reference {

double norm_sq(const double* x, int64_t count);

}  // namespace sidewinder::reference
