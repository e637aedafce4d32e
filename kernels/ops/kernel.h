#pragma once
// Kernel<Args>: the implementations of one operation, one function pointer per backend. The CPU
// pointer is set where the constant is defined; the CUDA pointer is filled from the table that the
// CUDA plugin exports, and is empty until then. `flops` counts the work of a call for the profile;
// empty: not counted.

#include "kernels/base/check.h"
#include "kernels/ops/profile.h"
#include "kernels/tensor/device.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {

template <typename Args>
struct Kernel {
  using Function = void (*)(Stream, const Args&);
  const char* name;
  Function cpu;
  Function cuda = nullptr;
  double (*flops)(const Args&) = nullptr;

  void operator()(Stream stream, const Args& args) const {
    const Function function = stream.device.kind == DeviceKind::cpu ? cpu : cuda;
    if (function == nullptr) {
      fail_environment("{} has no {} implementation in this build; `sidewinder doctor` lists the "
                       "backends that were found",
                       name, stream.device.kind == DeviceKind::cpu ? "CPU" : "CUDA");
    }
    const OperationTimer timer(name, flops != nullptr && profiling() ? flops(args) : 0);
    function(stream, args);
  }
};

// The stream on which operations of this thread run for tensors of `device`.
inline Stream current_stream(Device device) { return Stream{device, nullptr}; }

}  // namespace sidewinder
