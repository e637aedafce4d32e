#include "checkpoints/huggingface/mamba.h"

#include <nlohmann/json.hpp>

#include "checkpoints/huggingface/config.h"
#include "kernels/base/error.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

// Names that the released files have beside the usual ones, for the same values.
void check_second_names(ConfigReader& reader, const MambaConfig& config) {
  const int64_t inner = config.expand * config.width;
  const std::string inner_reason = fmt::format("expand · hidden_size is {}", inner);
  reader.require("intermediate_size", inner, inner_reason);
  reader.require("d_inner", inner, inner_reason);
  reader.require("d_model", config.width, fmt::format("hidden_size is {}", config.width));
  reader.require("n_layer", config.layers, fmt::format("num_hidden_layers is {}", config.layers));
  reader.require("rms_norm", true, "only RMS norms are supported");
  const Json& ssm = reader.raw("ssm_cfg");
  if (!ssm.is_null() && ssm != Json::object() && ssm != Json{{"layer", "Mamba1"}}) {
    reader.refuse("ssm_cfg", "only {} and {\"layer\": \"Mamba1\"} are supported");
  }
}

}  // namespace

MambaConfig read_mamba_config(const Json& json, const std::string& path) {
  ConfigReader reader(json, path);
  MambaConfig config;
  config.vocabulary = reader.integer("vocab_size", 50280);
  config.width = reader.integer("hidden_size");
  config.layers = reader.integer("num_hidden_layers");
  config.state = reader.integer("state_size", 16);
  config.conv_width = reader.integer("conv_kernel", 4);
  config.expand = reader.integer("expand", 2);
  config.norm_eps = reader.number("layer_norm_epsilon", 1e-5);
  config.tied = reader.boolean("tie_word_embeddings", true);
  const Json& rank = reader.raw("time_step_rank");
  config.dt_rank = rank.is_null() || rank == "auto" ? (config.width + 15) / 16
                                                    : reader.integer("time_step_rank");
  if (config.conv_width < 2 || config.conv_width > 8) {
    reader.refuse("conv_kernel", "widths from 2 to 8 are supported");
  }
  check_second_names(reader, config);
  // The class default is true; released files say false.
  if (reader.boolean("use_bias", true)) {
    reader.refuse("use_bias", "projections with biases are not supported; it must be false");
  }
  reader.require("use_conv_bias", true, "the convolution must have a bias");
  reader.require("hidden_act", "silu", "only silu is supported");
  // The residual stream is f32 here in any case; the rest decides initial values, or speed.
  reader.ignore({"residual_in_fp32", "time_step_scale", "time_step_min", "time_step_max",
                 "time_step_init_scheme", "time_step_floor", "rescale_prenorm_residual",
                 "fused_add_norm", "pad_vocab_size_multiple", "use_mambapy",
                 "use_associative_scan"});
  reader.ignore(general_config_keys());
  reader.finish();
  return config;
}

Json write_mamba_config(const MambaConfig& config, const Json& base) {
  Json result = base;
  if (base.empty()) result["architectures"] = {"MambaForCausalLM"};
  result["model_type"] = "mamba";
  result["vocab_size"] = config.vocabulary;
  result["hidden_size"] = config.width;
  result["state_size"] = config.state;
  result["num_hidden_layers"] = config.layers;
  result["expand"] = config.expand;
  result["intermediate_size"] = config.expand * config.width;
  result["conv_kernel"] = config.conv_width;
  result["time_step_rank"] = config.dt_rank;
  result["use_bias"] = false;
  result["use_conv_bias"] = true;
  result["hidden_act"] = "silu";
  result["layer_norm_epsilon"] = config.norm_eps;
  result["residual_in_fp32"] = true;
  result["tie_word_embeddings"] = config.tied;
  return result;
}

TensorTable mamba_tensors(const MambaConfig& config) {
  TensorTable table;
  table.embedding = "backbone.embeddings.weight";
  table.head = "lm_head.weight";
  const auto same = [&](const std::string& name, const std::vector<int64_t>& shape,
                        const std::string& theirs) {
    table.rules.push_back({name, shape, {{theirs, shape}}, false});
  };
  const int64_t width = config.width;
  const int64_t inner = config.expand * width;
  same("embedding.weight", {config.vocabulary, width}, table.embedding);
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string ours = fmt::format("blocks.{}.", i);
    const std::string theirs = fmt::format("backbone.layers.{}.", i);
    const std::string mixer = ours + "mixer.";
    const std::string their_mixer = theirs + "mixer.";
    same(ours + "mixer_norm.weight", {width}, theirs + "norm.weight");
    same(mixer + "in_proj.weight", {2 * inner, width}, their_mixer + "in_proj.weight");
    table.rules.push_back({mixer + "conv.weight",
                           {inner, config.conv_width},
                           {{their_mixer + "conv1d.weight", {inner, 1, config.conv_width}}},
                           false});
    same(mixer + "conv.bias", {inner}, their_mixer + "conv1d.bias");
    same(mixer + "x_proj.weight", {config.dt_rank + 2 * config.state, inner},
         their_mixer + "x_proj.weight");
    same(mixer + "dt_proj.weight", {inner, config.dt_rank}, their_mixer + "dt_proj.weight");
    same(mixer + "dt_bias", {inner}, their_mixer + "dt_proj.bias");
    same(mixer + "A_log", {inner, config.state}, their_mixer + "A_log");
    table.rules.back().needs_f32 = true;
    same(mixer + "D", {inner}, their_mixer + "D");
    table.rules.back().needs_f32 = true;
    same(mixer + "out_proj.weight", {width, inner}, their_mixer + "out_proj.weight");
  }
  same("final_norm.weight", {width}, "backbone.norm_f.weight");
  if (!config.tied) same("head.weight", {config.vocabulary, width}, table.head);
  return table;
}

}  // namespace sidewinder
