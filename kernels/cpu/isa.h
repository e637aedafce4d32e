#pragma once
// Instruction-set levels of the CPU kernels. Every source in kernels/cpu/isa is compiled once per
// level, with that level's flags, inside the namespace SIDEWINDER_ISA; the level is chosen at run
// time. Sources there include nothing but <cstdint>, <cstddef>, <immintrin.h>, simd.h and their own
// header of plain structs: an inline function of the standard library compiled with AVX-512 could be
// the copy that the linker keeps for everybody.

#include <string_view>

namespace sidewinder {

// From avx512_amx on, bf16 products of matrices run on tile registers, attention runs as at avx512,
// in f32, and everything else as at avx512_bf16. amx_model computes by the instructions'
// documentation what they would: for tests, slow, wherever avx512_bf16 runs, and never chosen by
// itself.
enum class Isa { generic, avx2, avx512, avx512_bf16, avx512_amx, amx_model };

std::string_view name_of(Isa isa);

// The best level that this CPU and operating system can run.
Isa best_isa();
// Every level up to the best, and amx_model.
bool can_run(Isa isa);
// Why best_isa() is a lower level although the CPU has AMX; empty where it has none or uses it.
std::string_view amx_refusal();
// The level in use: best_isa(), or the one named by the environment variable SIDEWINDER_ISA
// (Error{user} if the CPU cannot run it). Results differ in rounding between levels.
Isa active_isa();
// For tests: every level that the CPU can run can be forced.
void force_isa(Isa isa);

}  // namespace sidewinder

// Declares the table `name` of type `Table` for every level, and `name_for_isa()`, which returns the
// one in use. A source in kernels/cpu/isa defines it:
//   namespace sidewinder::SIDEWINDER_ISA { extern const Table name = {...}; }
#define SIDEWINDER_DECLARE_PER_ISA(Table, name) \
  SIDEWINDER_DECLARE_LEVELS(Table, name, isa_avx512_bf16, isa_avx512_bf16)
// The same for a source that is compiled for tile registers and for their model as well.
#define SIDEWINDER_DECLARE_PER_ISA_WITH_TILES(Table, name) \
  SIDEWINDER_DECLARE_LEVELS(Table, name, isa_avx512_amx, isa_amx_model)
// The same for a source that lives on products of bf16 pairs in vector registers (vdpbf16ps): CPUs
// with tile registers run them at half the rate of products in f32, so that f32 is used there.
#define SIDEWINDER_DECLARE_PER_ISA_WITHOUT_SLOW_PAIRS(Table, name) \
  SIDEWINDER_DECLARE_LEVELS(Table, name, isa_avx512, isa_avx512)

#if defined(__x86_64__)
#define SIDEWINDER_DECLARE_LEVELS(Table, name, tiles, model)      \
  namespace isa_generic { extern const Table name; }              \
  namespace isa_avx2 { extern const Table name; }                 \
  namespace isa_avx512 { extern const Table name; }               \
  namespace isa_avx512_bf16 { extern const Table name; }          \
  namespace tiles { extern const Table name; }                    \
  namespace model { extern const Table name; }                    \
  inline const Table& name##_for_isa() {                          \
    const Isa isa = active_isa();                                 \
    if (isa == Isa::avx2) return isa_avx2::name;                  \
    if (isa == Isa::avx512) return isa_avx512::name;              \
    if (isa == Isa::avx512_bf16) return isa_avx512_bf16::name;    \
    if (isa == Isa::avx512_amx) return tiles::name;               \
    if (isa == Isa::amx_model) return model::name;                \
    return isa_generic::name;                                     \
  }
#else
#define SIDEWINDER_DECLARE_LEVELS(Table, name, tiles, model)      \
  namespace isa_generic { extern const Table name; }              \
  inline const Table& name##_for_isa() { return isa_generic::name; }
#endif
