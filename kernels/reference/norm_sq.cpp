#include "kernels/reference/norm_sq.h"

namespace sidewinder::reference {

double norm_sq(const double* x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

}  // namespace sidewinder::reference
