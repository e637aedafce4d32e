#include "tools/commands/generate.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "data/text_reader.h"
#include "kernels/base/check.h"
#include "kernels/base/philox.h"
#include "tools/assemble.h"

namespace sidewinder {

int32_t sample(const Tensor& logits, const SamplingOptions& options, double uniform) {
  const std::vector<double> values = logits.values();
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](int32_t a, int32_t b) {
    const double left = values[static_cast<size_t>(a)];
    const double right = values[static_cast<size_t>(b)];
    return left != right ? left > right : a < b;
  };
  if (options.temperature == 0) return *std::min_element(order.begin(), order.end(), better);
  size_t kept = order.size();
  if (options.top_k > 0) kept = std::min(kept, static_cast<size_t>(options.top_k));
  if (kept < order.size() || options.top_p < 1.0) {
    std::partial_sort(
        order.begin(),
        order.begin() + static_cast<std::ptrdiff_t>(options.top_p < 1.0 ? order.size() : kept),
        order.end(), better);
    order.resize(kept);
  }
  double largest = values[static_cast<size_t>(order[0])];
  for (const int32_t id : order) largest = std::max(largest, values[static_cast<size_t>(id)]);
  std::vector<double> weights;
  double total = 0;
  for (const int32_t id : order) {
    weights.push_back(std::exp((values[static_cast<size_t>(id)] - largest) / options.temperature));
    total += weights.back();
  }
  if (options.top_p < 1.0) {
    // The smallest set of most likely tokens that holds top_p of the probability.
    double held = 0;
    size_t count = 0;
    while (count < weights.size() && (count == 0 || held < options.top_p * total)) {
      held += weights[count++];
    }
    weights.resize(count);
    total = held;
  }
  double left = uniform * total;
  for (size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[weights.size() - 1];
}

std::optional<Precision> precision_named(const std::string& name) {
  if (name.empty()) return std::nullopt;
  if (name == "f32") return Precision::f32;
  if (name == "bf16") return Precision::bf16;
  if (name == "f64") return Precision::f64;
  fail_user("--precision is {}; use f32, bf16 or f64", name);
}

ExitCode generate(const GenerateCommand& command) {
  require_utf8(command.prompt, "--prompt", Blame::user);
  TrainedModel trained = load_trained_model(
      command.model, {precision_named(command.precision), command.tokenizer, command.sets});
  const Tokenizer& tokenizer = text_tokenizer(trained);
  const Dtype dtype = dtype_of(trained.recipe.train.precision);

  std::vector<int32_t> tokens = tokenizer.encode(command.prompt);
  if (command.bos) {
    SIDEWINDER_REQUIRE(tokenizer.bos().has_value(), "this tokenizer has no BOS; leave --bos out");
    tokens.insert(tokens.begin(), *tokenizer.bos());
  }
  if (tokens.empty()) {
    // Documents start after the end of the one before, so the end mark stands for "anything".
    SIDEWINDER_REQUIRE(
        tokenizer.eos().has_value() || tokenizer.bos().has_value(),
        "the prompt is empty and this tokenizer has no BOS or EOS to start from; pass "
        "--prompt TEXT");
    tokens.push_back(tokenizer.bos() ? *tokenizer.bos() : *tokenizer.eos());
  }
  fmt::print("{}", command.prompt);
  std::fflush(stdout);

  const Philox random(command.seed, "generate");
  const SamplingOptions sampling{command.temperature, command.top_k, command.top_p};
  GenerationState state;
  Tensor logits = trained.model->next_logits(dtype, tokens, state);
  std::vector<int32_t> made;
  const auto begin = std::chrono::steady_clock::now();
  while (static_cast<int64_t>(made.size()) < command.tokens) {
    const int32_t id = sample(logits, sampling, random.uniform(made.size()));
    made.push_back(id);
    if (tokenizer.eos() && id == *tokenizer.eos()) break;
    fmt::print("{}", tokenizer.bytes_of(id));
    std::fflush(stdout);
    if (static_cast<int64_t>(made.size()) < command.tokens) {
      logits = trained.model->next_logits(dtype, {id}, state);
    }
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  fmt::print("\n");
  if (!command.json_path.empty()) {
    // Bytes that are no UTF-8 (a character cut in two) are replaced in the JSON text only.
    const nlohmann::json result = {
        {"model", command.model},
        {"step", trained.step},
        {"prompt", command.prompt},
        {"ids", made},
        {"text", tokenizer.decode(made)},
        {"tokens_per_second", static_cast<double>(made.size()) / seconds}};
    write_text_file(command.json_path,
                    result.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  return ExitCode::success;
}

}  // namespace sidewinder
