#include "kernels/cpu/isa.h"

#include <array>
#include <atomic>
#include <cstdlib>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr std::array<Isa, 4> kLevels = {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16};

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::avx512_bf16;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::generic;
}

Isa from_environment() {
  const char* text = std::getenv("SIDEWINDER_ISA");
  if (text == nullptr || *text == '\0') return best_isa();
  for (const Isa isa : kLevels) {
    if (name_of(isa) != text) continue;
    SIDEWINDER_REQUIRE(isa <= best_isa(),
                       "SIDEWINDER_ISA is \"{}\" but this CPU can run at most {}; unset it", text,
                       name_of(best_isa()));
    return isa;
  }
  fail_user("SIDEWINDER_ISA is \"{}\"; it must be one of generic, avx2, avx512, avx512_bf16", text);
}

std::atomic<Isa>& active() {
  static std::atomic<Isa> isa{from_environment()};
  return isa;
}

}  // namespace

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512_bf16: return "avx512_bf16";
    case Isa::generic: break;
  }
  return "generic";
}

Isa best_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }

void force_isa(Isa isa) {
  SIDEWINDER_REQUIRE(isa <= best_isa(), "this CPU cannot run the {} kernels", name_of(isa));
  active().store(isa);
}

}  // namespace sidewinder
