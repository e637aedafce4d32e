#include "kernels/ops/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

namespace sidewinder {
namespace {

constexpr char kLibrary[] = "libsidewinder_cuda.so";

std::string program_folder() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) return ".";
  const std::string program(path, static_cast<size_t>(length));
  return program.substr(0, program.rfind('/'));
}

std::string plugin_path() {
  if (const char* named = std::getenv("SIDEWINDER_CUDA_PLUGIN")) return named;
  const std::string folder = program_folder();
  std::string path = folder + "/" + kLibrary;
  if (access(path.c_str(), F_OK) != 0) {
    const std::string installed = folder + "/../lib/" + kLibrary;
    if (access(installed.c_str(), F_OK) == 0) path = installed;
  }
  return path;
}

void fill_slots(const CudaPluginTable& table) {
  kRmsNorm.cuda = table.rms_norm;
  kRmsNormBackward.cuda = table.rms_norm_backward;
}

std::string devices_text(CudaDevices devices, int count, const char* message) {
  switch (devices) {
    case CudaDevices::found:
      return fmt::format("loaded; {} device{}", count, count == 1 ? "" : "s");
    case CudaDevices::no_driver: return "loaded; this machine has no NVIDIA driver";
    case CudaDevices::none: return "loaded; there is a driver but no device";
    case CudaDevices::failed: break;
  }
  return fmt::format("loaded; the CUDA runtime reports: {}", message);
}

}  // namespace

PluginReport load_cuda_plugin() {
  PluginReport report;
  report.path = plugin_path();
  if (access(report.path.c_str(), F_OK) != 0) {
    report.status =
        "not found; it is built where nvcc is (cmake -DSIDEWINDER_CUDA=ON says why not)";
    return report;
  }
  // Never closed: the kernels' slots point into it. RTLD_LOCAL keeps its symbols to itself.
  void* const library = dlopen(report.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    report.status = fmt::format("cannot be opened: {}", dlerror());
    return report;
  }
  const auto function =
      reinterpret_cast<CudaPluginFunction>(dlsym(library, "sidewinder_cuda_plugin"));
  if (function == nullptr) {
    report.status = "is not a sidewinder plugin: it exports no sidewinder_cuda_plugin";
    return report;
  }
  const CudaPluginTable& table = *function();
  if (table.version != kCudaPluginVersion) {
    report.status = fmt::format("has version {} but this program needs {}; build both together",
                                table.version, kCudaPluginVersion);
    return report;
  }
  fill_slots(table);
  report.loaded = true;
  const char* message = "";
  const CudaDevices devices = table.find_devices(&report.num_devices, &message);
  report.status = devices_text(devices, report.num_devices, message);
  return report;
}

}  // namespace sidewinder
