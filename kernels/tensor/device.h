#pragma once
// Where memory lives, and the order in which work on it happens.

#include <cstdint>

namespace sidewinder {

enum class DeviceKind : uint8_t { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

// Work queued on one Stream happens in order. On the CPU a kernel has finished when it returns and
// `handle` is null; on CUDA `handle` is the cudaStream_t.
struct Stream {
  Device device;
  void* handle = nullptr;
};

}  // namespace sidewinder
