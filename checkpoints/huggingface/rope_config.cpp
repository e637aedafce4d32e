#include "checkpoints/huggingface/rope_config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

const std::map<std::string, RopeScalingKind>& kinds() {
  static const std::map<std::string, RopeScalingKind> all = {
      {"default", RopeScalingKind::none},      {"linear", RopeScalingKind::linear},
      {"dynamic", RopeScalingKind::dynamic},   {"yarn", RopeScalingKind::yarn},
      {"longrope", RopeScalingKind::longrope}, {"su", RopeScalingKind::longrope},
      {"llama3", RopeScalingKind::llama3}};
  return all;
}

// One object of rope_scaling or rope_parameters, and the keys beside it.
class RopeReader {
 public:
  RopeReader(ConfigReader& outer, const Json& object, const std::string& path)
      : outer_(outer), inner_(object, path), path_(path) {}

  RopeOptions read(int64_t head_width, int64_t context, bool allow_mismatch);
  std::vector<std::string> problems() { return inner_.problems(); }

 private:
  // A key that may stand inside, or beside the object; both must agree.
  double shared(const std::string& key, double otherwise);
  int64_t original_context(int64_t otherwise);
  // Zero and null count as not given.
  double or_default(const std::string& key, double otherwise);
  std::vector<double> numbers(const std::string& key);
  RopeScalingKind kind();
  void read_scaling(RopeScaling& scaling, int64_t context);
  void check_reach(const RopeOptions& rope, int64_t context);

  ConfigReader& outer_;
  ConfigReader inner_;
  std::string path_;
};

double RopeReader::shared(const std::string& key, double otherwise) {
  const double outside = outer_.number(key, otherwise);
  const bool is_inside = !inner_.raw(key).is_null();
  const double inside = inner_.number(key, outside);
  if (is_inside && !outer_.raw(key).is_null() && inside != outside) {
    inner_.refuse(key, fmt::format("it is {} beside this object", outside));
  }
  return inside;
}

int64_t RopeReader::original_context(int64_t otherwise) {
  const std::string key = "original_max_position_embeddings";
  const auto inside = inner_.optional_integer(key);
  const auto outside = outer_.optional_integer(key);
  if (inside && outside && *inside != *outside) {
    inner_.refuse(key, fmt::format("it is {} beside this object", *outside));
  }
  return outside.value_or(inside.value_or(otherwise));
}

double RopeReader::or_default(const std::string& key, double otherwise) {
  const Json& value = inner_.raw(key);
  return value.is_number() && value == 0 ? otherwise : inner_.number(key, otherwise);
}

std::vector<double> RopeReader::numbers(const std::string& key) {
  const Json& value = inner_.raw(key);
  const bool is_list = value.is_array() && std::all_of(value.begin(), value.end(),
                                                       [](const Json& x) { return x.is_number(); });
  if (is_list) return value.get<std::vector<double>>();
  inner_.refuse(key, "a list of numbers is needed, one per pair");
  return {};
}

RopeScalingKind RopeReader::kind() {
  const std::string older = inner_.text("type", "");
  const std::string type = inner_.text("rope_type", older.empty() ? "default" : older);
  if (!older.empty() && older != type) {
    inner_.refuse("type", fmt::format("rope_type is \"{}\"", type));
  }
  const auto found = kinds().find(type);
  if (found != kinds().end()) return found->second;
  inner_.refuse(inner_.raw("rope_type").is_null() ? "type" : "rope_type",
                "only default, linear, dynamic, yarn, longrope and llama3 are supported");
  return RopeScalingKind::none;
}

void RopeReader::read_scaling(RopeScaling& scaling, int64_t context) {
  const RopeScaling defaults;
  // Not given, longrope's follows from the contexts.
  const bool may_lack_factor = scaling.kind == RopeScalingKind::longrope;
  scaling.original_context = original_context(context);
  const double derived =
      static_cast<double>(context) / static_cast<double>(scaling.original_context);
  scaling.factor = inner_.number(
      "factor", may_lack_factor ? std::optional<double>(std::max(1.0, derived)) : std::nullopt);
  switch (scaling.kind) {
    case RopeScalingKind::linear: {
      // transformers does not store it: the context is taken as the new one.
      const double original = static_cast<double>(context) / scaling.factor;
      scaling.original_context = original_context(std::lround(original));
      break;
    }
    case RopeScalingKind::dynamic:
      if (scaling.original_context != context) {
        inner_.refuse("original_max_position_embeddings",
                      fmt::format("dynamic starts from max_position_embeddings, {}", context));
      }
      break;
    case RopeScalingKind::yarn:
      scaling.beta_fast = or_default("beta_fast", defaults.beta_fast);
      scaling.beta_slow = or_default("beta_slow", defaults.beta_slow);
      scaling.truncate = inner_.boolean("truncate", defaults.truncate);
      scaling.attention_factor = inner_.number("attention_factor", defaults.attention_factor);
      scaling.mscale = or_default("mscale", defaults.mscale);
      scaling.mscale_all_dim = or_default("mscale_all_dim", defaults.mscale_all_dim);
      break;
    case RopeScalingKind::longrope:
      scaling.short_factors = numbers("short_factor");
      scaling.long_factors = numbers("long_factor");
      scaling.attention_factor = inner_.number("attention_factor", defaults.attention_factor);
      break;
    case RopeScalingKind::llama3:
      scaling.low_frequency_factor = inner_.number("low_freq_factor");
      scaling.high_frequency_factor = inner_.number("high_freq_factor");
      if (inner_.raw("original_max_position_embeddings").is_null() &&
          outer_.raw("original_max_position_embeddings").is_null()) {
        inner_.refuse("original_max_position_embeddings",
                      "llama3 needs the context before scaling");
      }
      break;
    default: break;
  }
}

void RopeReader::check_reach(const RopeOptions& rope, int64_t context) {
  const std::string mismatch = rope_mismatch(rope, context);
  if (!mismatch.empty()) inner_.refuse("factor", mismatch);
}

RopeOptions RopeReader::read(int64_t head_width, int64_t context, bool allow_mismatch) {
  RopeOptions rope;
  rope.head_width = head_width;
  rope.base = shared("rope_theta", 10000.0);
  const double share = shared("partial_rotary_factor", 1.0);
  rope.rotary_width = static_cast<int64_t>(static_cast<double>(head_width) * share);
  rope.scaling.kind = kind();
  if (rope.scaling.kind != RopeScalingKind::none) read_scaling(rope.scaling, context);
  if (!inner_.sound()) return rope;
  try {
    check_rope(rope);
    if (!allow_mismatch) check_reach(rope, context);
  } catch (const Error& error) {
    const std::string what = error.what();
    outer_.add_problem(path_ + what.substr(what.find(": ")));
  }
  return rope;
}

// Objects by layer type, and nothing else.
bool is_by_layer_type(const Json& object) {
  return !object.empty() &&
         std::all_of(object.begin(), object.end(), [](const Json& x) { return x.is_object(); });
}

Json scaling_json(const RopeOptions& rope, int64_t context) {
  const RopeScaling& scaling = rope.scaling;
  const RopeScaling defaults;
  Json json;
  const auto unless_default = [&](const char* key, double value, double otherwise) {
    if (value != otherwise) json[key] = value;
  };
  switch (scaling.kind) {
    case RopeScalingKind::none:
    case RopeScalingKind::ntk: json["rope_type"] = "default"; break;
    case RopeScalingKind::linear:
      json["rope_type"] = "linear";
      json["factor"] = scaling.factor;
      if (std::lround(static_cast<double>(context) / scaling.factor) != scaling.original_context) {
        json["original_max_position_embeddings"] = scaling.original_context;
      }
      break;
    case RopeScalingKind::dynamic:
      SIDEWINDER_REQUIRE(scaling.original_context == context,
                         "dynamic rotary positions begin at an original context of {}, but in "
                         "config.json they begin at max_position_embeddings, {}; store the model "
                         "with a context of {}",
                         scaling.original_context, context, scaling.original_context);
      json["rope_type"] = "dynamic";
      json["factor"] = scaling.factor;
      break;
    case RopeScalingKind::ntk_by_parts:
    case RopeScalingKind::yarn:
      SIDEWINDER_REQUIRE(scaling.ramp == RopeRamp::index,
                         "config.json has no word for a YaRN ramp by rotations; only the ramp by "
                         "index can be stored");
      json["rope_type"] = "yarn";
      json["factor"] = scaling.factor;
      json["original_max_position_embeddings"] = scaling.original_context;
      unless_default("beta_fast", scaling.beta_fast, defaults.beta_fast);
      unless_default("beta_slow", scaling.beta_slow, defaults.beta_slow);
      if (!scaling.truncate) json["truncate"] = false;
      if (scaling.kind == RopeScalingKind::ntk_by_parts) {
        json["attention_factor"] = 1.0;
        break;
      }
      unless_default("attention_factor", scaling.attention_factor, defaults.attention_factor);
      unless_default("mscale", scaling.mscale, defaults.mscale);
      unless_default("mscale_all_dim", scaling.mscale_all_dim, defaults.mscale_all_dim);
      break;
    case RopeScalingKind::longrope:
      json["rope_type"] = "longrope";
      unless_default("factor", scaling.factor,
                     static_cast<double>(context) / static_cast<double>(scaling.original_context));
      json["original_max_position_embeddings"] = scaling.original_context;
      json["short_factor"] = scaling.short_factors;
      json["long_factor"] = scaling.long_factors;
      unless_default("attention_factor", scaling.attention_factor, defaults.attention_factor);
      break;
    case RopeScalingKind::llama3:
      json["rope_type"] = "llama3";
      json["factor"] = scaling.factor;
      json["low_freq_factor"] = scaling.low_frequency_factor;
      json["high_freq_factor"] = scaling.high_frequency_factor;
      json["original_max_position_embeddings"] = scaling.original_context;
      break;
  }
  return json;
}

bool says_already(const Json& config, const RopeOptions& rope, int64_t context) {
  if (!config.contains("rope_theta") && !config.contains("rope_parameters")) return false;
  ConfigReader reader(config, "");
  const RopeByLayerType read = read_rope_config(reader, rope.head_width, context, true);
  return reader.sound() && read.size() == 1 && read.begin()->second == rope;
}

}  // namespace

RopeByLayerType read_rope_config(ConfigReader& reader, int64_t head_width, int64_t context,
                                 bool allow_mismatch) {
  const Json& older = reader.raw("rope_scaling");
  const Json& newer = reader.raw("rope_parameters");
  const std::string name = newer.is_null() ? "rope_scaling" : "rope_parameters";
  for (const char* const key : {"rope_scaling", "rope_parameters"}) {
    const Json& value = reader.raw(key);
    if (value.is_null() || value.is_object()) continue;
    reader.refuse(key, "an object or null is needed");
    return {{"", RopeOptions{.head_width = head_width, .rotary_width = head_width}}};
  }
  if (!older.is_null() && !newer.is_null() && older != newer) {
    reader.refuse("rope_scaling", "rope_parameters is there too, and says something else");
  }
  const Json given = newer.is_null() ? older : newer;
  const Json object = given.is_null() ? Json::object() : given;
  RopeByLayerType result;
  const auto read_one = [&](const std::string& type, const Json& of_type, const std::string& path) {
    RopeReader one(reader, of_type, path);
    result[type] = one.read(head_width, context, allow_mismatch);
    for (const std::string& problem : one.problems()) {
      reader.add_problem(fmt::format("{}.{}", path, problem));
    }
  };
  if (is_by_layer_type(object)) {
    for (const auto& [type, of_type] : object.items()) {
      read_one(type, of_type, fmt::format("{}.{}", name, type));
    }
  } else {
    read_one("", object, name);
  }
  return result;
}

std::string rope_mismatch(const RopeOptions& rope, int64_t context) {
  const RopeScaling& scaling = rope.scaling;
  if (scaling.kind == RopeScalingKind::none || scaling.kind == RopeScalingKind::dynamic ||
      scaling.kind == RopeScalingKind::llama3) {
    return {};
  }
  const double reached = scaling.factor * static_cast<double>(scaling.original_context);
  if (std::abs(reached - static_cast<double>(context)) < 0.5) return {};
  return fmt::format(
      "times original_max_position_embeddings, {}, it is {} and not max_position_embeddings, {}",
      scaling.original_context, reached, context);
}

void write_rope_config(const RopeOptions& rope, int64_t context, Json& config) {
  SIDEWINDER_REQUIRE(!rope.interleaved,
                     "rotary pairs are interleaved, and config.json means half-split ones; permute "
                     "the rows of queries and keys first");
  check_rope(rope);
  if (config.is_null()) config = Json::object();
  if (says_already(config, rope, context)) return;
  Json scaling = scaling_json(rope, context);
  double base = rope.base;
  if (rope.scaling.kind == RopeScalingKind::ntk) {
    const double d = static_cast<double>(rope.rotary_width);
    base *= std::pow(rope.scaling.factor, d / (d - 2.0));
  }
  const double share =
      static_cast<double>(rope.rotary_width) / static_cast<double>(rope.head_width);
  const bool is_new = config.contains("rope_parameters") && config["rope_parameters"].is_object();
  for (const char* key :
       {"rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}) {
    config.erase(key);
  }
  Json& target = is_new ? scaling : config;
  target["rope_theta"] = base;
  if (rope.rotary_width != rope.head_width) target["partial_rotary_factor"] = share;
  if (is_new) {
    config.erase("rope_scaling");
    config["rope_parameters"] = scaling;
  } else {
    const bool is_plain = scaling["rope_type"] == "default";
    if (!is_plain || config.contains("rope_scaling")) {
      config["rope_scaling"] = is_plain ? Json(nullptr) : scaling;
    }
  }
}

}  // namespace sidewinder
