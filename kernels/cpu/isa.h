#pragma once
// Instruction-set levels of the CPU kernels. Every source in kernels/cpu/isa is compiled once per
// level, with that level's flags, inside the namespace SIDEWINDER_ISA; the level is chosen at run
// time. Sources there include nothing but <cstdint>, <cstddef>, <immintrin.h>, simd.h and their own
// header of plain structs: an inline function of the standard library compiled with AVX-512 could be
// the copy that the linker keeps for everybody.

#include <string_view>

namespace sidewinder {

enum class Isa { generic, avx2, avx512, avx512_bf16 };

std::string_view name_of(Isa isa);

// The best level that this CPU and operating system can run.
Isa best_isa();
// The level in use: best_isa(), or the lower one named by the environment variable SIDEWINDER_ISA
// (Error{user} if the CPU cannot run it). Results differ in rounding between levels.
Isa active_isa();
// For tests: every level up to best_isa() can be forced.
void force_isa(Isa isa);

}  // namespace sidewinder

// Declares the table `name` of type `Table` for every level, and `name_for_isa()`, which returns the
// one in use. A source in kernels/cpu/isa defines it:
//   namespace sidewinder::SIDEWINDER_ISA { extern const Table name = {...}; }
#if defined(__x86_64__)
#define SIDEWINDER_DECLARE_PER_ISA(Table, name)                   \
  namespace isa_generic { extern const Table name; }              \
  namespace isa_avx2 { extern const Table name; }                 \
  namespace isa_avx512 { extern const Table name; }               \
  namespace isa_avx512_bf16 { extern const Table name; }          \
  inline const Table& name##_for_isa() {                          \
    switch (active_isa()) {                                       \
      case Isa::avx2: return isa_avx2::name;                      \
      case Isa::avx512: return isa_avx512::name;                  \
      case Isa::avx512_bf16: return isa_avx512_bf16::name;        \
      case Isa::generic: break;                                   \
    }                                                             \
    return isa_generic::name;                                     \
  }
#else
#define SIDEWINDER_DECLARE_PER_ISA(Table, name)                   \
  namespace isa_generic { extern const Table name; }              \
  inline const Table& name##_for_isa() { return isa_generic::name; }
#endif
