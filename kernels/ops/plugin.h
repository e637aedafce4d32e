#pragma once
// The CUDA plugin: a shared library with the CUDA kernels, opened at run time, so that the program
// itself links no CUDA and starts on machines without a driver.
//
// The plugin exports one C function, `sidewinder_cuda_plugin`, which returns a CudaPluginTable. Its
// functions are those of the `cuda` slots of the kernels.

#include <string>

#include "kernels/ops/rms_norm.h"

namespace sidewinder {

// To be raised with every change of the table or of the Args it mentions: the program uses a plugin
// of its own version only.
inline constexpr int kCudaPluginVersion = 2;

enum class CudaDevices : int { found, no_driver, none, failed };

struct CudaPluginTable {
  int version;
  // Sets `count`; on `failed` also `message`, text of the CUDA runtime that is never freed.
  CudaDevices (*find_devices)(int* count, const char** message);
  Kernel<RmsNormArgs>::Function rms_norm;
  Kernel<RmsNormBackwardArgs>::Function rms_norm_backward;
};
using CudaPluginFunction = const CudaPluginTable* (*)();

struct PluginReport {
  bool loaded = false;  // the kernels' cuda slots are filled
  std::string path;     // where it was looked for
  int num_devices = 0;
  std::string status;  // one sentence for people
};

// Opens the plugin named by the environment variable SIDEWINDER_CUDA_PLUGIN, or else
// libsidewinder_cuda.so beside the program or in ../lib of it, and fills the cuda slots. A missing
// or unusable plugin is not an error: the report says what was found. Not thread-safe: called once,
// at the start of a command.
PluginReport load_cuda_plugin();

}  // namespace sidewinder
