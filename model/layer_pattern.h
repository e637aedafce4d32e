#pragma once
// "mmmw mmmg" repeated: one letter per block.

#include <string>

#include "model/options.h"

namespace sidewinder {

// The letters of all blocks in order. Error{user} for a letter without options.
std::string expand_layers(const ModelOptions& options);

}  // namespace sidewinder
