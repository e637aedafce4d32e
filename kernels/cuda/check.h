#pragma once
// CUDA status codes as Error.

#include <cuda_runtime_api.h>

#include "kernels/base/error.h"

namespace sidewinder::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  fail_environment("CUDA: {} failed: {} ({}); `sidewinder doctor` shows the devices and the driver",
                   what, cudaGetErrorString(status), cudaGetErrorName(status));
}

}  // namespace sidewinder::cuda
