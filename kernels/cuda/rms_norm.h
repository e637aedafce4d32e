#pragma once
// The CUDA kernels of kernels/ops/rms_norm.h. Types f32 and bf16.

#include "kernels/ops/rms_norm.h"

namespace sidewinder::cuda {

void rms_norm(Stream stream, const RmsNormArgs& args);
void rms_norm_backward(Stream stream, const RmsNormBackwardArgs& args);

}  // namespace sidewinder::cuda
