#include "checkpoints/huggingface/llama.h"

#include <nlohmann/json.hpp>

#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/rope_config.h"
#include "kernels/base/error.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

void check_heads(ConfigReader& reader, const LlamaConfig& config) {
  if (config.heads % config.key_value_heads != 0) {
    reader.refuse("num_key_value_heads",
                  fmt::format("it must divide num_attention_heads, {}", config.heads));
  }
  if (config.head_width % 2 != 0) {
    reader.refuse("head_dim", fmt::format("heads of width {} have no rotary pairs; it must be even",
                                          config.head_width));
  }
}

}  // namespace

LlamaConfig read_llama_config(const Json& json, const std::string& path) {
  ConfigReader reader(json, path);
  LlamaConfig config;
  config.is_mistral = reader.text("model_type", "llama") == "mistral";
  config.vocabulary = reader.integer("vocab_size");
  config.width = reader.integer("hidden_size");
  config.hidden = reader.integer("intermediate_size");
  config.layers = reader.integer("num_hidden_layers");
  config.heads = reader.integer("num_attention_heads");
  config.key_value_heads = reader.integer("num_key_value_heads", config.heads);
  const auto head_width = reader.optional_integer("head_dim");
  if (!head_width && config.width % config.heads != 0) {
    reader.refuse("num_attention_heads",
                  fmt::format("it must divide hidden_size, {}, or head_dim be set", config.width));
  }
  config.head_width = head_width.value_or(config.width / config.heads);
  config.context = reader.integer("max_position_embeddings", config.is_mistral ? 131072 : 2048);
  config.norm_eps = reader.number("rms_norm_eps", 1e-6);
  config.tied = reader.boolean("tie_word_embeddings", false);
  if (config.is_mistral) {
    // A config without the key means the class default, which is a window.
    config.window = json.contains("sliding_window")
                        ? reader.optional_integer("sliding_window").value_or(0)
                        : 4096;
  } else {
    reader.require("sliding_window", nullptr, "llama has no window; with one it is a mistral");
  }
  check_heads(reader, config);
  if (config.head_width % 2 == 0) {
    const RopeByLayerType ropes =
        read_rope_config(reader, config.head_width, config.context, /*allow_mismatch=*/true);
    config.rope = ropes.begin()->second;
    if (ropes.size() > 1) {
      reader.refuse("rope_parameters", "all layers of this family turn positions alike");
    }
    if (config.rope.rotary_width != config.head_width) {
      reader.refuse("partial_rotary_factor", "this family turns whole heads");
    }
  } else {
    reader.ignore({"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor",
                   "original_max_position_embeddings"});
  }
  reader.require("hidden_act", "silu", "only silu is supported");
  reader.require("attention_bias", false, "projections with biases are not supported");
  reader.require("mlp_bias", false, "projections with biases are not supported");
  reader.require("attention_dropout", 0.0, "dropout is not supported");
  reader.ignore({"pretraining_tp"});  // how products are cut, not what they are
  reader.ignore(general_config_keys());
  reader.finish();
  return config;
}

Json write_llama_config(const LlamaConfig& config, const Json& base) {
  Json result = base;
  if (base.empty()) {
    result["architectures"] = {config.is_mistral ? "MistralForCausalLM" : "LlamaForCausalLM"};
  }
  result["model_type"] = config.is_mistral ? "mistral" : "llama";
  result["vocab_size"] = config.vocabulary;
  result["hidden_size"] = config.width;
  result["intermediate_size"] = config.hidden;
  result["num_hidden_layers"] = config.layers;
  result["num_attention_heads"] = config.heads;
  result["num_key_value_heads"] = config.key_value_heads;
  result["head_dim"] = config.head_width;
  result["max_position_embeddings"] = config.context;
  result["rms_norm_eps"] = config.norm_eps;
  write_rope_config(config.rope, config.context, result);
  if (config.is_mistral) {
    result["sliding_window"] = config.window > 0 ? Json(config.window) : Json(nullptr);
  }
  result["hidden_act"] = "silu";
  if (!config.is_mistral) {
    result["attention_bias"] = false;
    result["mlp_bias"] = false;
  }
  result["tie_word_embeddings"] = config.tied;
  return result;
}

TensorTable llama_tensors(const LlamaConfig& config) {
  TensorTable table;
  table.embedding = "model.embed_tokens.weight";
  table.head = "lm_head.weight";
  const auto add = [&](const std::string& name, std::vector<int64_t> shape,
                       std::vector<TensorPart> parts) {
    table.rules.push_back({name, std::move(shape), std::move(parts), false});
  };
  const auto same = [&](const std::string& name, const std::vector<int64_t>& shape,
                        const std::string& theirs) {
    add(name, shape, {{theirs, shape}});
  };
  const int64_t width = config.width;
  const int64_t queries = config.heads * config.head_width;
  const int64_t keys = config.key_value_heads * config.head_width;
  same("embedding.weight", {config.vocabulary, width}, table.embedding);
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string ours = fmt::format("blocks.{}.", i);
    const std::string theirs = fmt::format("model.layers.{}.", i);
    same(ours + "mixer_norm.weight", {width}, theirs + "input_layernorm.weight");
    add(ours + "mixer.qkv.weight", {queries + 2 * keys, width},
        {{theirs + "self_attn.q_proj.weight", {queries, width}},
         {theirs + "self_attn.k_proj.weight", {keys, width}},
         {theirs + "self_attn.v_proj.weight", {keys, width}}});
    same(ours + "mixer.out_proj.weight", {width, queries}, theirs + "self_attn.o_proj.weight");
    same(ours + "feed_forward_norm.weight", {width}, theirs + "post_attention_layernorm.weight");
    add(ours + "feed_forward.gate_up.weight", {2 * config.hidden, width},
        {{theirs + "mlp.gate_proj.weight", {config.hidden, width}},
         {theirs + "mlp.up_proj.weight", {config.hidden, width}}});
    same(ours + "feed_forward.down.weight", {width, config.hidden},
         theirs + "mlp.down_proj.weight");
  }
  same("final_norm.weight", {width}, "model.norm.weight");
  if (!config.tied) same("head.weight", {config.vocabulary, width}, table.head);
  return table;
}

}  // namespace sidewinder
