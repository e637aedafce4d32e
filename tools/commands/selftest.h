#pragma once

#include <string>

#include "kernels/base/error.h"

namespace sidewinder {

// Checks every differentiable function on this machine: f64 gradients against central differences,
// f32 and bf16 outputs and gradients against f64, and prints the worst relative error of each.
// ExitCode::bug if any exceeds its bound.
ExitCode selftest(const std::string& json_path);

}  // namespace sidewinder
