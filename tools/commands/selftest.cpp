#include "tools/commands/selftest.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "model/check/gradient_check.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

// Twice the error of plain loops in the type, as measured over these cases, with some room.
constexpr double kGradientBound = 1e-7;
constexpr double kF32Bound = 5e-6;
constexpr double kBf16Bound = 1e-2;

}  // namespace

ExitCode selftest(const std::string& json_path) {
  fmt::print("{} kernels, {} threads; worst relative error per operation\n\n", name_of(active_isa()),
             ThreadPool::global().num_threads());
  fmt::print("{:<40} {:>14} {:>10} {:>10}\n", "operation", "f64 gradient", "f32", "bf16");
  const std::vector<GradientCase> small = gradient_cases(Dtype::f64, CaseSize::small);
  const std::vector<GradientCase> f32 = gradient_cases(Dtype::f32, CaseSize::large);
  const std::vector<GradientCase> bf16 = gradient_cases(Dtype::bf16, CaseSize::large);
  nlohmann::json rows = nlohmann::json::array();
  bool sound = true;
  for (size_t i = 0; i < small.size(); ++i) {
    const double gradient = check_gradients(small[i].function, small[i].inputs).worst;
    const double single = rounding_error(f32[i], Dtype::f32);
    const double half = rounding_error(bf16[i], Dtype::bf16);
    const bool good = gradient <= kGradientBound && single <= kF32Bound && half <= kBf16Bound;
    sound = sound && good;
    fmt::print("{:<40} {:>14.1e} {:>10.1e} {:>10.1e}{}\n", small[i].name, gradient, single, half,
               good ? "" : "  TOO LARGE");
    rows.push_back({{"operation", small[i].name},
                    {"f64_gradient", gradient},
                    {"f32", single},
                    {"bf16", half},
                    {"passed", good}});
  }
  fmt::print("\n{}\n", sound ? "all within bounds"
                             : "some errors are too large; please report this table, `sidewinder "
                               "doctor` and the compiler used");
  if (!json_path.empty()) {
    write_text_file(json_path, nlohmann::json{{"instruction_set", name_of(active_isa())},
                                              {"passed", sound},
                                              {"operations", rows}}
                                   .dump(2));
  }
  return sound ? ExitCode::success : ExitCode::bug;
}

}  // namespace sidewinder
