// The tables of plan_tables(): fixed sizes, so that conventions can be compared with other sources.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "model/cost.h"
#include "tools/commands/plan.h"
#include "tools/commands/table.h"

namespace sidewinder {
namespace {

constexpr std::array<int64_t, 7> kLengths = {1024, 4096, 16384, 65536, 131072, 1048576, 2097152};

// One decimal, as these are usually quoted: "8.6 G".
std::string short_text(double value) {
  constexpr std::array<const char*, 6> kPrefixes = {"", "k", "M", "G", "T", "P"};
  size_t prefix = 0;
  for (; value >= 999.95 && prefix + 1 < kPrefixes.size(); ++prefix) value /= 1000;
  return fmt::format("{:.1f} {}", value, kPrefixes[prefix]);
}

std::string attention_table() {
  const AttentionShape shape{.width = 4096, .heads = 32, .key_value_heads = 32, .head_width = 128};
  constexpr int64_t kLayers = 32;
  constexpr double kCacheBytes = 2;  // of an f16 element
  std::vector<TableRow> rows = {{"tokens", "scores n²", "QK only, no mask", "KV cache", "(binary)",
                                 "QK and PV, no mask", "QK and PV, causal", "bf16 scores, 1 head"}};
  for (const int64_t n : kLengths) {
    const double square = static_cast<double>(n) * static_cast<double>(n);
    const double cache = static_cast<double>(n * kLayers * shape.cache_elements()) * kCacheBytes;
    rows.push_back(
        {std::to_string(n), short_text(square), short_text(shape.pair_flops() / 2 * square) + "F",
         short_text(cache) + "B", fmt::format("{:g} GiB", cache / (1 << 30)),
         decimal_text(shape.pair_flops() * square, 4) + "F",
         decimal_text(shape.pair_flops() * static_cast<double>(AttentionPattern{}.pairs(n)), 4) +
             "F",
         decimal_text(2 * square, 4) + "B"});
  }
  return "Attention of 32 heads of 128, without grouped keys: FLOPs of one layer, forward; cache "
         "of 32 "
         "layers in f16\n" +
         table_text(rows, "rrrrrrrr");
}

std::string layer_table() {
  const AttentionShape attention{
      .width = 4096, .heads = 32, .key_value_heads = 32, .head_width = 128};
  const Mamba1Shape mamba1{
      .width = 4096, .inner = 8192, .state = 16, .conv_width = 4, .dt_rank = 256};
  const Mamba2Shape mamba2{
      .width = 4096, .inner = 8192, .state = 128, .groups = 1, .heads = 128, .conv_width = 4};
  const AttentionPattern full;
  AttentionPattern window;
  window.window = 4096;
  std::vector<TableRow> rows = {{"tokens", "full causal", "window 4096", "projections",
                                 "Mamba-1 scan+conv", "Mamba-1 layer", "Mamba-2 scan+conv",
                                 "KV full", "KV window"}};
  const auto flops = [](double value) { return decimal_text(value, 3) + "F"; };
  for (size_t i = 0; i + 1 < kLengths.size(); ++i) {
    const int64_t n = kLengths[i];
    const auto tokens = static_cast<double>(n);
    const auto cache = [&](int64_t kept) {
      return decimal_text(2.0 * static_cast<double>(kept * attention.cache_elements()), 3) + "B";
    };
    rows.push_back(
        {std::to_string(n), flops(attention.pair_flops() * static_cast<double>(full.pairs(n))),
         flops(attention.pair_flops() * static_cast<double>(window.pairs(n))),
         flops(tokens * attention.projection_flops()), flops(tokens * mamba1.mixing_flops()),
         flops(tokens * (mamba1.projection_flops() + mamba1.mixing_flops())),
         flops(tokens * mamba2.mixing_flops()), cache(n), cache(std::min(n, window.window))});
  }
  const auto kib = [](int64_t elements, int64_t bytes) {
    return static_cast<double>(elements * bytes) / 1024;
  };
  return fmt::format(
             "One layer of width 4096, forward, causal: 32 heads of 128, cache in f16; scans of "
             "8192 "
             "channels with 16\nstates (Mamba-1; carried in generation: {:g} KiB in f32, {:g} KiB "
             "for "
             "the convolution in f16) or 128 (Mamba-2,\n128 heads; {:g} KiB; its recurrence is "
             "counted, the matrix form needs more)\n",
             kib(mamba1.scan_state_elements(), 4), kib(mamba1.conv_state_elements(), 2),
             kib(mamba2.scan_state_elements(), 4)) +
         table_text(rows, "rrrrrrrrr");
}

std::string worked_hybrid() {
  constexpr int64_t kTokens = 4096;
  constexpr int64_t kWidth = 1024;
  constexpr int64_t kHidden = 2816;
  constexpr int64_t kVocabulary = 32000;
  const AttentionShape attention{
      .width = kWidth, .heads = 16, .key_value_heads = 4, .head_width = 64};
  const Mamba2Shape mamba2{
      .width = kWidth, .inner = 2048, .state = 128, .groups = 1, .heads = 32, .conv_width = 4};
  AttentionPattern window;
  window.window = 512;
  const auto core = [&](AttentionPattern pattern) {
    return attention.pair_flops() * static_cast<double>(pattern.pairs(kTokens)) / kTokens;
  };
  const double mlp = feed_forward_flops(kWidth, kHidden, /*gated=*/true);
  const double mamba = mamba2.projection_flops() + mamba2.mixing_flops();
  const double logits = logits_flops(kWidth, kVocabulary);
  const auto total = [&](AttentionPattern pattern) {
    return 8 * mamba + 4 * (attention.projection_flops() + core(pattern)) + 12 * mlp + logits;
  };
  const auto count = [](double value) { return count_text(std::llround(value)); };
  const std::vector<TableRow> rows = {
      {"part", "layers", "FLOPs per token and layer"},
      {"attention projections", "4", count(attention.projection_flops())},
      {"attention core, window 512", "", count(core(window))},
      {"  full causal would be", "", count(core({}))},
      {"gated MLP, hidden 2816", "12", count(mlp)},
      {"Mamba-2, 2048 channels, 128 states", "8", count(mamba)},
      {"logits of 32000", "1", count(logits)},
      {"forward", "", count(total(window))},
      {"training, 3 x forward", "", count(3 * total(window))},
      {"  with full attention", "", count(3 * total({}))},
  };
  return "A hybrid of width 1024 at 4096 tokens: 8 Mamba-2, 4 attention (16 heads of 64, 4 "
         "key/value "
         "heads), 12 MLP\n" +
         table_text(rows, "lrr");
}

}  // namespace

std::string decimal_text(double value, int digits) {
  constexpr std::array<const char*, 7> kPrefixes = {"", "k", "M", "G", "T", "P", "E"};
  const double carry = 1000 - 0.5 * std::pow(10.0, 3 - digits);  // what rounds up to 1000
  size_t prefix = 0;
  for (; value >= carry && prefix + 1 < kPrefixes.size(); ++prefix) value /= 1000;
  const int before = value < 9.9995 ? 1 : value < 99.995 ? 2 : 3;
  return fmt::format("{:.{}f} {}", value, std::max(0, digits - before), kPrefixes[prefix]);
}

std::string plan_tables() {
  return "Conventions: a multiply-add is 2 FLOPs. Causal attention counts visible pairs only, "
         "scores and "
         "values\n(\"no mask\" counts all n² pairs). Softmax, norms and activations count as none. "
         "Training is 3 x forward;\nrecomputation is not included.\n\n" +
         attention_table() + "\n" + layer_table() + "\n" + worked_hybrid();
}

}  // namespace sidewinder
