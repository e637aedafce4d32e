// The one function that the plugin exports.

#include <cuda_runtime_api.h>

#include "kernels/cuda/rms_norm.h"
#include "kernels/ops/plugin.h"

namespace sidewinder::cuda {
namespace {

CudaDevices find_devices(int* count, const char** message) {
  *count = 0;
  const cudaError_t status = cudaGetDeviceCount(count);
  switch (status) {
    case cudaSuccess: return *count > 0 ? CudaDevices::found : CudaDevices::none;
    case cudaErrorInsufficientDriver: return CudaDevices::no_driver;
    case cudaErrorNoDevice: return CudaDevices::none;
    default: break;
  }
  *count = 0;
  *message = cudaGetErrorString(status);
  return CudaDevices::failed;
}

const CudaPluginTable kTable = {
    .version = kCudaPluginVersion,
    .find_devices = find_devices,
    .rms_norm = rms_norm,
    .rms_norm_backward = rms_norm_backward,
};

}  // namespace
}  // namespace sidewinder::cuda

extern "C" __attribute__((visibility("default"))) const sidewinder::CudaPluginTable*
sidewinder_cuda_plugin() {
  return &sidewinder::cuda::kTable;
}
