#include "checkpoints/huggingface/config.h"

#include <nlohmann/json.hpp>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

const Json kNull = nullptr;

}  // namespace

ConfigReader::ConfigReader(const Json& config, const std::string& path)
    : config_(config), path_(path) {}

ConfigReader::~ConfigReader() = default;

const Json* ConfigReader::find(const std::string& key) {
  known_.insert(key);
  const auto found = config_.find(key);
  return found == config_.end() || found->is_null() ? nullptr : &*found;
}

int64_t ConfigReader::integer(const std::string& key, std::optional<int64_t> otherwise) {
  const Json* value = find(key);
  if (value == nullptr && otherwise) return *otherwise;
  constexpr int64_t kMost = int64_t{1} << 40;
  if (value == nullptr || !value->is_number_integer() || *value < 1 || *value > kMost) {
    refuse(key, "a whole number of at least 1 is needed");
    return 1;
  }
  return value->get<int64_t>();
}

std::optional<int64_t> ConfigReader::optional_integer(const std::string& key) {
  if (find(key) == nullptr) return std::nullopt;
  return integer(key);
}

double ConfigReader::number(const std::string& key, std::optional<double> otherwise) {
  const Json* value = find(key);
  if (value == nullptr && otherwise) return *otherwise;
  if (value == nullptr || !value->is_number() || !(value->get<double>() > 0)) {
    refuse(key, "a number above 0 is needed");
    return 1;
  }
  return value->get<double>();
}

bool ConfigReader::boolean(const std::string& key, bool otherwise) {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) {
    refuse(key, "true or false is needed");
    return otherwise;
  }
  return value->get<bool>();
}

std::string ConfigReader::text(const std::string& key, const std::string& otherwise) {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) {
    refuse(key, "a text is needed");
    return otherwise;
  }
  return value->get<std::string>();
}

const Json& ConfigReader::raw(const std::string& key) {
  const Json* value = find(key);
  return value == nullptr ? kNull : *value;
}

void ConfigReader::require(const std::string& key, const Json& only, const std::string& reason) {
  const Json* value = find(key);
  if (value != nullptr && *value != only) refuse(key, reason);
}

void ConfigReader::ignore(const std::vector<std::string>& keys) {
  known_.insert(keys.begin(), keys.end());
}

void ConfigReader::refuse(const std::string& key, const std::string& reason) {
  const auto found = config_.find(key);
  problems_.push_back(
      fmt::format("{}: {}; {}", key, found == config_.end() ? "missing" : found->dump(), reason));
}

std::vector<std::string> ConfigReader::problems() const {
  std::vector<std::string> problems = problems_;
  for (const auto& [key, value] : config_.items()) {
    if (known_.count(key) == 0) {
      problems.push_back(
          fmt::format("{}: {}; this key is not known, and may change what the model computes", key,
                      value.dump()));
    }
  }
  return problems;
}

void ConfigReader::finish() const {
  const std::vector<std::string> all = problems();
  if (all.empty()) return;
  std::string text = path_ + ": this model cannot be taken over:";
  for (const std::string& problem : all) text += "\n    " + problem;
  throw Error(Blame::user, text);
}

const std::vector<std::string>& general_config_keys() {
  static const std::vector<std::string> keys = {
      "_name_or_path", "architectures",        "bos_token_id", "dtype",
      "eos_token_id",  "initializer_range",    "model_type",   "output_attentions",
      "pad_token_id",  "output_hidden_states", "return_dict",  "torch_dtype",
      "unk_token_id",  "transformers_version", "use_cache"};
  return keys;
}

}  // namespace sidewinder
