#pragma once
// Whether the tile registers of Intel AMX can be used: the CPU has them, the operating system saves
// them and lets this process use them, and a product comes out right.

#include <cstdint>
#include <string_view>

#include "kernels/cpu/isa/gemm.h"

namespace sidewinder {

enum class AmxState : uint8_t {
  absent,         // no AMX with bf16
  not_saved,      // the operating system does not keep the registers
  not_permitted,  // it does, but not for this process
  wrong,          // products come out wrong
  usable,
};

// Found out once; asks the system for the permission, which holds for all threads.
AmxState amx_state();
// Empty for absent and usable.
std::string_view refusal_of(AmxState state);
// Whether the bf16 product of small whole numbers, whose sums f32 holds exactly, is right.
bool multiplies_right(const GemmKernels& kernels);

}  // namespace sidewinder
