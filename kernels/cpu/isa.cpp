#include "kernels/cpu/isa.h"

#include <array>
#include <atomic>
#include <cstdlib>

#include "kernels/base/check.h"
#include "kernels/cpu/amx_check.h"

namespace sidewinder {
namespace {

constexpr std::array<Isa, 6> kLevels = {Isa::generic,     Isa::avx2,       Isa::avx512,
                                        Isa::avx512_bf16, Isa::avx512_amx, Isa::amx_model};

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) {
    return amx_state() == AmxState::usable ? Isa::avx512_amx : Isa::avx512_bf16;
  }
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
    SIDEWINDER_REQUIRE(can_run(isa),
                       "SIDEWINDER_ISA is \"{}\" but this machine can run at most {}{}{}; unset it",
                       text, name_of(best_isa()), amx_refusal().empty() ? "" : ": ", amx_refusal());
    return isa;
  }
  fail_user(
      "SIDEWINDER_ISA is \"{}\"; it must be one of generic, avx2, avx512, avx512_bf16, avx512_amx, "
      "amx_model",
      text);
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
    case Isa::avx512_amx: return "avx512_amx";
    case Isa::amx_model: return "amx_model";
    case Isa::generic: break;
  }
  return "generic";
}

Isa best_isa() {
  static const Isa isa = detect();
  return isa;
}

bool can_run(Isa isa) {
  return isa == Isa::amx_model ? best_isa() >= Isa::avx512_bf16 : isa <= best_isa();
}

std::string_view amx_refusal() {
  return best_isa() == Isa::avx512_bf16 ? refusal_of(amx_state()) : "";
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }

void force_isa(Isa isa) {
  SIDEWINDER_REQUIRE(can_run(isa), "this CPU cannot run the {} kernels", name_of(isa));
  active().store(isa);
}

}  // namespace sidewinder
