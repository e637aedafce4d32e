#pragma once
// `sidewinder doctor`: what this machine has and what the program makes of it.

#include <string>

namespace sidewinder {

// Prints version, processor, kernels in use, threads, memory, measured limits, libraries and the
// CUDA plugin; takes under a second. `json_path`: the same as JSON; empty: not wanted. Returns 0.
int doctor(const std::string& json_path);

}  // namespace sidewinder
