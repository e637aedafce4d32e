#include "kernels/reference/rope.h"

namespace sidewinder::reference {

void rope_head(const RopeHead& head, const double* x, const double* cosine, const double* sine,
               double* y) {
  for (int64_t j = 0; j < head.pairs; ++j) {
    const int64_t first = head.interleaved ? 2 * j : j;
    const int64_t second = head.interleaved ? 2 * j + 1 : j + head.pairs;
    const double s = head.inverse ? -sine[j] : sine[j];
    const double a = x[first];
    const double b = x[second];
    y[first] = a * cosine[j] - b * s;
    y[second] = b * cosine[j] + a * s;
  }
  for (int64_t i = 2 * head.pairs; i < head.width; ++i) y[i] = x[i];
}

}  // namespace sidewinder::reference
