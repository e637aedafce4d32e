#pragma once
// Table lookup by plain loops, f64.

#include "kernels/ops/embedding.h"

namespace sidewinder::reference {

void embedding(const EmbeddingArgs& args);
void embedding_backward(const EmbeddingBackwardArgs& args);

}  // namespace sidewinder::reference
