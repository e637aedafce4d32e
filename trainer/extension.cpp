#include "trainer/extension.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "checkpoints/durable.h"
#include "data/loader.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "trainer/trainer.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const ExtensionMeasurement& m) {
  Json buckets = Json::array();
  for (size_t i = 0; i < m.buckets.size(); ++i) {
    const PositionLosses::Bucket& bucket = m.buckets[i];
    if (bucket.targets == 0) continue;
    buckets.push_back({{"bucket", i},
                       {"positions", PositionLosses::name(i)},
                       {"targets", bucket.targets},
                       {"loss", bucket.sum / static_cast<double>(bucket.targets)}});
  }
  return {{"when", m.when},
          {"step", m.step},
          {"context", m.context},
          {"loss", m.loss},
          {"targets", m.targets},
          {"far_loss", m.far_loss},
          {"far_targets", m.far_targets},
          {"by_position", buckets}};
}

ExtensionMeasurement from_json(const Json& json) {
  ExtensionMeasurement m;
  m.when = json.at("when");
  m.step = json.at("step");
  m.context = json.at("context");
  m.loss = json.at("loss");
  m.targets = json.at("targets");
  m.far_loss = json.at("far_loss");
  m.far_targets = json.at("far_targets");
  for (const Json& entry : json.at("by_position")) {
    const size_t index = entry.at("bucket");
    if (index >= m.buckets.size()) m.buckets.resize(index + 1);
    const int64_t targets = entry.at("targets");
    m.buckets[index] = {entry.at("loss").get<double>() * static_cast<double>(targets), targets};
  }
  return m;
}

}  // namespace

ExtensionRecord::ExtensionRecord(const ExtendOptions& options, std::string folder)
    : options_(options), folder_(std::move(folder)) {
  std::ifstream file(path());
  if (!file) return;
  try {
    const Json json = Json::parse(file);
    for (const Json& entry : json.at("measurements")) {
      measurements_.push_back(from_json(entry));
    }
  } catch (const nlohmann::json::exception& error) {
    fail_environment("{} cannot be read ({}); remove it to measure the start again", path(),
                     error.what());
  }
}

std::string ExtensionRecord::path() const {
  return (std::filesystem::path(folder_) / "extension.json").string();
}

void ExtensionRecord::write() const {
  Json list = Json::array();
  for (const ExtensionMeasurement& m : measurements_) list.push_back(to_json(m));
  const Json json = {{"from_context", options_.from_context}, {"measurements", list}};
  replace_file(path(), json.dump(2) + "\n");
}

void ExtensionRecord::measure(HybridModel& model, Dtype dtype, const DataOptions& data,
                              const TrainOptions& train, const std::string& when, int64_t step,
                              const std::vector<int64_t>& contexts) {
  const DataOptions anew = without_lanes(data);
  for (const int64_t context : contexts) {
    // A run that was killed after a measurement makes it again.
    std::erase_if(measurements_, [&](const ExtensionMeasurement& m) {
      return m.when == when && m.step == step && m.context == context;
    });
    ExtensionMeasurement result;
    result.when = when;
    result.step = step;
    result.context = context;
    double far_sum = 0;
    PositionLosses losses;
    const auto per_token = [&](const Batch& batch, const Tensor& token_loss) {
      const SequenceLayout layout = layouts_of(batch, anew).attention;
      losses.add(layout.position, batch.targets, token_loss);
      const int32_t* position = layout.position.data<int32_t>();
      for (size_t t = 0; t < batch.targets.size(); ++t) {
        if (batch.targets[t] == kIgnoredTarget || position[t] < options_.from_context) continue;
        far_sum += token_loss.at(static_cast<int64_t>(t));
        ++result.far_targets;
      }
    };
    DocumentRows rows(anew.validation, anew, train.validate_tokens);
    const int64_t slots = std::max(train.context, train.tokens_per_micro_batch);
    const Evaluation evaluation = evaluate(model, dtype, rows, anew, context,
                                           std::max<int64_t>(1, slots / context), per_token);
    SIDEWINDER_REQUIRE(context <= options_.from_context || result.far_targets > 0,
                       "data.validation ({}) has no document longer than {} tokens, so what lies "
                       "beyond extend.from_context cannot be measured at context {}; take longer "
                       "documents",
                       data.validation, options_.from_context, context);
    result.loss = evaluation.loss;
    result.targets = evaluation.targets;
    result.far_loss =
        result.far_targets == 0 ? 0.0 : far_sum / static_cast<double>(result.far_targets);
    result.buckets = losses.buckets();
    log_info(
        "{}, step {}, context {}: loss {:.4f} nats per token{}", when, step, context, result.loss,
        result.far_targets == 0
            ? ""
            : fmt::format(", {:.4f} beyond position {}", result.far_loss, options_.from_context));
    measurements_.push_back(std::move(result));
  }
  write();
}

const ExtensionMeasurement* ExtensionRecord::find(const std::string& when, int64_t step,
                                                  int64_t context) const {
  for (const ExtensionMeasurement& m : measurements_) {
    if (m.when == when && m.step == step && m.context == context) return &m;
  }
  return nullptr;
}

std::optional<std::string> ExtensionRecord::verdict(int64_t step, int64_t context) const {
  const int64_t known = options_.from_context;
  const ExtensionMeasurement* near_before = find("before", 0, known);
  const ExtensionMeasurement* near_now = find("trained", step, known);
  if (near_before != nullptr && near_now != nullptr &&
      near_now->loss > near_before->loss + options_.max_regression) {
    return fmt::format(
        "at context {} the loss is {:.4f} where it was {:.4f} before the extension: it rose by "
        "more "
        "than extend.max_regression, {}; mix more of the old data in, lower the learning rate, or "
        "raise the bound",
        known, near_now->loss, near_before->loss, options_.max_regression);
  }
  const ExtensionMeasurement* far_before = find("before", 0, context);
  const ExtensionMeasurement* far_now = find("trained", step, context);
  if (context > known && far_before != nullptr && far_now != nullptr &&
      !(far_now->far_loss < far_before->far_loss - options_.min_gain)) {
    return fmt::format(
        "beyond position {} the loss at context {} is {:.4f} where it was {:.4f} before the "
        "extension: it did not fall by more than extend.min_gain, {}; train this stage for longer, "
        "or change the scaling",
        known, context, far_now->far_loss, far_before->far_loss, options_.min_gain);
  }
  return std::nullopt;
}

}  // namespace sidewinder
