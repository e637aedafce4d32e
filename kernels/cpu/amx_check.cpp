#include "kernels/cpu/amx_check.h"

#include <vector>

#include "kernels/base/rounding.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sidewinder {
namespace {

// Fills panels with all of a dense matrix of f32 numbers, whose rows run along the contraction.
std::vector<uint32_t> packed(const GemmKernels& kernels, const std::vector<float>& matrix,
                             int64_t contraction, int width, GemmOrder order) {
  const auto rows = static_cast<int64_t>(matrix.size()) / contraction;
  const int64_t panel_stride =
      round_up(gemm_steps(contraction, kernels.bf16_word), kGemmStepGroup) * width;
  std::vector<uint32_t> panels(static_cast<size_t>(divide_up(rows, width) * panel_stride));
  kernels.pack({.panels = panels.data(),
                .panel_stride = panel_stride,
                .first_step = 0,
                .width = width,
                .order = order,
                .halves_last = false,
                .source = matrix.data(),
                .row_stride = contraction,
                .extent = rows,
                .readable_extent = rows,
                .contraction = contraction,
                .contracts_rows = false,
                .element = GemmElement::f32,
                .word = kernels.bf16_word});
  return panels;
}

#if defined(__x86_64__) && defined(__linux__)

bool cpu_has_amx() {
  constexpr unsigned kAmxBf16 = 1U << 22;
  constexpr unsigned kAmxTile = 1U << 24;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (edx & kAmxBf16) != 0 && (edx & kAmxTile) != 0;
}

bool system_saves_tiles() {
  constexpr unsigned kOsXsave = 1U << 27;
  constexpr unsigned kTileStates = (1U << 17) | (1U << 18);  // configuration and data
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsXsave) == 0) return false;
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return (eax & kTileStates) == kTileStates;
}

// The Linux kernel gives the memory for saved tiles to those who ask only.
bool system_permits_tiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

AmxState find_out() {
  if (!cpu_has_amx()) return AmxState::absent;
  if (!system_saves_tiles()) return AmxState::not_saved;
  if (!system_permits_tiles()) return AmxState::not_permitted;
  return multiplies_right(isa_avx512_amx::gemm_kernels) ? AmxState::usable : AmxState::wrong;
}

#else

AmxState find_out() { return AmxState::absent; }

#endif

}  // namespace

AmxState amx_state() {
  static const AmxState state = find_out();
  return state;
}

std::string_view refusal_of(AmxState state) {
  switch (state) {
    case AmxState::not_saved: return "the operating system does not save its registers";
    case AmxState::not_permitted:
      return "the operating system does not let this process use its registers";
    case AmxState::wrong: return "a trial product came out wrong";
    case AmxState::absent:
    case AmxState::usable: break;
  }
  return "";
}

bool multiplies_right(const GemmKernels& kernels) {
  // A whole group of steps, and a part of one that ends in half a pair.
  constexpr int64_t kContraction = 45;
  const int64_t rows = kernels.pair_rows.tile_rows;
  const int64_t columns = kernels.tile_columns;
  std::vector<float> a(static_cast<size_t>(rows * kContraction));
  std::vector<float> b(static_cast<size_t>(columns * kContraction));
  int seed = 1;
  const auto next = [&seed] {
    seed = seed * 75 % 65537;
    return static_cast<float>(seed % 511 - 255);  // as many bits as bf16 has
  };
  for (float& value : a) value = next();
  for (float& value : b) value = next();
  const std::vector<uint32_t> a_panel =
      packed(kernels, a, kContraction, kernels.pair_rows.tile_rows, kernels.pair_rows.order);
  const std::vector<uint32_t> b_panel =
      packed(kernels, b, kContraction, kernels.tile_columns, GemmOrder::by_step);
  std::vector<float> product(static_cast<size_t>(rows * columns));
  GemmBlock block{};
  block.a = a_panel.data();
  block.b = b_panel.data();
  block.steps = gemm_steps(kContraction, kernels.bf16_word);
  block.rows = rows;
  block.columns = columns;
  block.word = kernels.bf16_word;
  block.output.y = product.data();
  block.output.stride = columns;
  kernels.multiply(block);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      float sum = 0;
      for (int64_t k = 0; k < kContraction; ++k) {
        sum += a[static_cast<size_t>(row * kContraction + k)] *
               b[static_cast<size_t>(column * kContraction + k)];
      }
      if (product[static_cast<size_t>(row * columns + column)] != sum) return false;
    }
  }
  return true;
}

}  // namespace sidewinder
