#include "tools/huggingface.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <vector>

#include "checkpoints/durable.h"
#include "checkpoints/huggingface/llama.h"
#include "checkpoints/huggingface/mamba.h"
#include "checkpoints/huggingface/rope_config.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "model/layer_pattern.h"
#include "model/layers/swiglu_mlp.h"
#include "trainer/context_schedule.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string join(const std::string& folder, const char* name) {
  return (fs::path(folder) / name).string();
}

// The blocks that a model has, one of each kind.
std::map<char, BlockOptions> blocks_of(const ModelOptions& model) {
  std::map<char, BlockOptions> result;
  for (const char letter : expand_layers(model)) {
    result[letter] = model.blocks.at(std::string(1, letter));
  }
  return result;
}

int64_t number_of_layers(const ModelOptions& model) {
  return static_cast<int64_t>(expand_layers(model).size());
}

// ---- Llama and Mistral ----

ModelOptions to_model(const LlamaConfig& config) {
  ModelOptions model;
  model.width = config.width;
  model.vocabulary = config.vocabulary;
  model.layers = "a";
  model.repeat = config.layers;
  model.tied_embeddings = config.tied;
  model.norm_eps = config.norm_eps;
  model.max_context = config.context;
  BlockOptions block;
  block.mixer = MixerKind::attention;
  block.pattern = config.window > 0 ? PatternKind::window : PatternKind::full;
  block.window = config.window;
  block.heads = config.heads;
  block.key_value_heads = config.key_value_heads;
  block.head_width = config.head_width;
  set_rope_options(block, config.rope);
  // What others trained may be scaled more or less than its distances ask for.
  block.rope_allow_mismatch = config.rope.scaling.kind != RopeScalingKind::none;
  block.hidden = config.hidden;
  model.blocks["a"] = block;
  return model;
}

std::string reason_against_llama(const BlockOptions& block) {
  if (block.mixer != MixerKind::attention) return "its mixer is not attention";
  if (block.feed_forward != FeedForwardKind::swiglu) return "it has no feed-forward";
  if (block.pattern != PatternKind::full && block.pattern != PatternKind::window) {
    return "its pattern is neither full nor window";
  }
  if (block.qk_norm) return "qk_norm is on";
  if (block.position != PositionKind::rope) return "its positions are not rotary";
  if (block.rope_layout != RopeLayout::half_split) return "rope_layout is not half_split";
  if (block.rotary_share != 1.0) return "rotary_share is not 1";
  return {};
}

std::optional<LlamaConfig> to_llama(const ModelOptions& model, int64_t context, std::string& why) {
  std::optional<LlamaConfig> result;
  if (model.logit_soft_cap > 0) {
    why = "logit_soft_cap is set";
    return std::nullopt;
  }
  for (const auto& [letter, block] : blocks_of(model)) {
    if (const std::string reason = reason_against_llama(block); !reason.empty()) {
      why = fmt::format("block {}: {}", letter, reason);
      return std::nullopt;
    }
    LlamaConfig config;
    config.vocabulary = model.vocabulary;
    config.width = model.width;
    config.layers = number_of_layers(model);
    config.hidden = hidden_width(model.width, block);
    config.heads = block.heads > 0 ? block.heads : model.width / block.head_width;
    config.key_value_heads = block.key_value_heads > 0 ? block.key_value_heads : config.heads;
    config.head_width = block.head_width;
    config.context = context;
    config.window = block.pattern == PatternKind::window ? block.window : 0;
    config.is_mistral = config.window > 0;
    config.norm_eps = model.norm_eps;
    config.rope = rope_options(block);
    config.tied = model.tied_embeddings;
    if (result && !(*result == config)) {
      why = fmt::format("block {} is unlike the others, and all must be equal", letter);
      return std::nullopt;
    }
    result = config;
  }
  return result;
}

// ---- Mamba ----

ModelOptions to_model(const MambaConfig& config) {
  ModelOptions model;
  model.width = config.width;
  model.vocabulary = config.vocabulary;
  model.layers = "m";
  model.repeat = config.layers;
  model.tied_embeddings = config.tied;
  model.norm_eps = config.norm_eps;
  BlockOptions block;
  block.mixer = MixerKind::mamba1;
  block.state = config.state;
  block.conv_width = config.conv_width;
  block.expand = config.expand;
  block.dt_rank = config.dt_rank;
  block.feed_forward = FeedForwardKind::none;
  model.blocks["m"] = block;
  return model;
}

std::optional<MambaConfig> to_mamba(const ModelOptions& model, std::string& why) {
  std::optional<MambaConfig> result;
  if (model.logit_soft_cap > 0) {
    why = "logit_soft_cap is set";
    return std::nullopt;
  }
  for (const auto& [letter, block] : blocks_of(model)) {
    if (block.mixer != MixerKind::mamba1 || block.feed_forward != FeedForwardKind::none) {
      why = fmt::format(
          "block {}: {}", letter,
          block.mixer != MixerKind::mamba1 ? "its mixer is not mamba1" : "it has a feed-forward");
      return std::nullopt;
    }
    MambaConfig config;
    config.vocabulary = model.vocabulary;
    config.width = model.width;
    config.layers = number_of_layers(model);
    config.state = block.state;
    config.conv_width = block.conv_width;
    config.expand = block.expand;
    config.dt_rank = block.dt_rank > 0 ? block.dt_rank : (model.width + 15) / 16;
    config.norm_eps = model.norm_eps;
    config.tied = model.tied_embeddings;
    if (result && !(*result == config)) {
      why = fmt::format("block {} is unlike the others, and all must be equal", letter);
      return std::nullopt;
    }
    result = config;
  }
  return result;
}

// ---- both ----

struct Translation {
  ModelOptions model;
  TensorTable tensors;
  std::string warning;  // of what is taken over as it is; may be empty
};

Translation read_family(const Json& config, const std::string& path, bool untie) {
  const std::string type = config.value("model_type", Json()).is_string()
                               ? config["model_type"].get<std::string>()
                               : std::string();
  if (type == "llama" || type == "mistral") {
    LlamaConfig llama = read_llama_config(config, path);
    llama.tied = llama.tied && !untie;
    std::string warning = rope_mismatch(llama.rope, llama.context);
    if (!warning.empty()) {
      warning = fmt::format("rotary positions are scaled by a factor of {}: {}; all three are "
                            "taken as they are",
                            llama.rope.scaling.factor, warning);
    }
    return {to_model(llama), llama_tensors(llama), warning};
  }
  if (type == "mamba") {
    MambaConfig mamba = read_mamba_config(config, path);
    mamba.tied = mamba.tied && !untie;
    return {to_model(mamba), mamba_tensors(mamba), {}};
  }
  if (type.empty() && config.contains("d_model") && config.contains("n_layer")) {
    fail_user(
        "{}: is of the original Mamba program, not of Hugging Face; take the model whose name ends "
        "in -hf",
        path);
  }
  fail_user("{}: model_type: {}; models of type llama, mistral and mamba can be taken over", path,
            config.contains("model_type") ? config["model_type"].dump() : "missing");
}

// `base` with those keys changed in which `after` differs from `before`.
Json with_changes(Json base, const Json& before, const Json& after) {
  for (const auto& [key, value] : after.items()) {
    if (!before.contains(key) || before[key] != value) base[key] = value;
  }
  for (const auto& [key, value] : before.items()) {
    if (!after.contains(key)) base.erase(key);
  }
  return base;
}

// The text of config.json: the old one as far as it is still true.
template <typename Config, typename Write>
std::string config_text(const Config& config, const std::optional<Config>& old,
                        const std::string& old_text, const ExportOptions& options, Write write) {
  static const std::map<std::string, std::string> kTypeNames = {
      {"F32", "float32"}, {"BF16", "bfloat16"}, {"F16", "float16"}, {"F64", "float64"}};
  if (old && *old == config && options.type.empty()) return old_text;
  Json json;
  if (old) {
    const Json base = Json::parse(old_text);
    json = with_changes(base, write(*old, base), write(config, base));
  } else {
    json = write(config, Json::object());
    if (options.bos) json["bos_token_id"] = *options.bos;
    if (options.eos) json["eos_token_id"] = *options.eos;
  }
  if (!old || !options.type.empty()) {
    json[json.contains("dtype") ? "dtype" : "torch_dtype"] =
        kTypeNames.at(options.type.empty() ? "F32" : options.type);
  }
  return json.dump(2) + "\n";
}

ForeignModel foreign_llama(LlamaConfig config, const std::optional<Origin>& origin,
                           const ExportOptions& options) {
  std::optional<LlamaConfig> old;
  if (origin) {
    const Json base = Json::parse(origin->config);
    const std::string type = base.value("model_type", "");
    // A llama that was given a window is a mistral, which has other keys.
    if (type == "mistral" || (type == "llama" && config.window == 0)) {
      old = read_llama_config(base, "the origin's config.json");
      config.is_mistral = old->is_mistral;
      // Training on shorter rows takes nothing away.
      config.context = std::max(config.context, old->context);
    }
  }
  return {config.is_mistral ? "mistral" : "llama",
          config_text(config, old, origin ? origin->config : "", options, write_llama_config),
          llama_tensors(config)};
}

ForeignModel foreign_mamba(const MambaConfig& config, const std::optional<Origin>& origin,
                           const ExportOptions& options) {
  std::optional<MambaConfig> old;
  if (origin) {
    const Json base = Json::parse(origin->config);
    if (base.value("model_type", "") == "mamba") {
      old = read_mamba_config(base, "the origin's config.json");
    }
  }
  return {"mamba",
          config_text(config, old, origin ? origin->config : "", options, write_mamba_config),
          mamba_tensors(config)};
}

// Rows to read in evaluation where nothing is known of training.
constexpr int64_t kDefaultContext = 2048;

Recipe recipe_of(const std::string& folder, const Json& config, const ModelOptions& model) {
  Recipe recipe;
  fs::path path = fs::path(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  recipe.run.name = path.filename().string();
  recipe.run.folder = folder;
  recipe.model = model;
  recipe.train.context = model.max_context > 0 ? model.max_context : kDefaultContext;
  recipe.train.tokens_per_step = recipe.train.context;
  recipe.train.steps = 1;
  const char* key = config.contains("dtype") ? "dtype" : "torch_dtype";
  recipe.train.precision =
      config.contains(key) && config[key] == "bfloat16" ? Precision::bf16 : Precision::f32;
  // A recipe is not complete without these; nothing is known of how the model was trained.
  recipe.data.train = {{.name = "unknown", .folder = "unknown"}};
  recipe.learning_rate.peak = 1e-4;
  return recipe;
}

// The recipe of a checkpoint, with windows and rotary positions as its schedule has them there.
Recipe recipe_there(const Json& state) {
  Recipe recipe = parse_recipe(state.at("recipe").get<std::string>(), "stored recipe");
  if (!state.contains("row_slots")) return recipe;  // imported
  const ContextSchedule schedule(recipe.context, recipe.train, recipe.model);
  if (schedule.is_constant()) return recipe;
  const ContextPlan plan = schedule.at({state.at("step"), state.at("row_slots")});
  recipe.model.max_context = plan.length;
  for (const auto& [letter, there] : plan.blocks) {
    BlockOptions& block = recipe.model.blocks.at(letter);
    block.window = there.window;
    if (there.rope_base > 0) block.rope_base = there.rope_base;
    if (there.rope_factor > 0) block.rope_factor = there.rope_factor;
  }
  return recipe;
}

}  // namespace

CheckpointContent import_huggingface(const std::string& folder) {
  const std::string path = join(folder, kConfigFile);
  const std::string text = read_config_text(path);
  const Json config = parse_config(text, path);
  Translation translation = read_family(config, path, false);
  if (!translation.warning.empty()) log_warning("{}: {}", path, translation.warning);
  const WeightFiles files(folder);
  if (translation.model.tied_embeddings &&
      head_in_file(files, translation.tensors) == HeadInFile::other) {
    log_warning(
        "{}: tie_word_embeddings is true, but {} is not the embedding; the output layer is "
        "taken as it is, not tied",
        folder, translation.tensors.head);
    translation = read_family(config, path, true);
  }
  TakenWeights weights = take_weights(files, translation.tensors);
  for (const std::string& note : weights.notes) log_info("{}: {}", folder, note);
  weights.origin.config = text;
  CheckpointContent content;
  content.folder = folder;
  content.tensors = std::move(weights.tensors);
  content.state = Json{{"step", 0},
                       {"origin", Json::parse(weights.origin.json())},
                       {"recipe", resolved_toml(recipe_of(folder, config, translation.model))}}
                      .dump();
  return content;
}

std::unique_ptr<Tokenizer> huggingface_tokenizer(const std::string& folder,
                                                 const std::string& named, int64_t vocabulary) {
  std::string file = named;
  if (file.empty() && fs::exists(join(folder, kSentencePieceFile))) {
    file = join(folder, kSentencePieceFile);
  }
  if (file.empty() && fs::exists(join(folder, kTokenizerJson))) {
    fail_user(
        "{}: has its tokenizer as {}, which cannot be read yet, only SentencePiece models ({}); if "
        "you have one for this model pass --tokenizer FILE",
        folder, kTokenizerJson, kSentencePieceFile);
  }
  if (file.empty() && vocabulary == 256) file = kBytesTokenizer;
  if (file.empty()) {
    fail_user(
        "{}: has no {}; pass --tokenizer FILE with the SentencePiece model of this model, or "
        "--tokenizer bytes if its ids are bytes",
        folder, kSentencePieceFile);
  }
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(file);
  SIDEWINDER_REQUIRE(tokenizer->vocabulary() <= vocabulary,
                     "{}: has {} ids but the model's vocabulary is {}; it is another model's "
                     "tokenizer",
                     file, tokenizer->vocabulary(), vocabulary);
  return tokenizer;
}

ForeignModel foreign_model(const Recipe& recipe, const std::optional<Origin>& origin,
                           const ExportOptions& options) {
  const int64_t context =
      recipe.model.max_context > 0 ? recipe.model.max_context : recipe.train.context;
  std::string not_llama;
  if (const auto llama = to_llama(recipe.model, context, not_llama)) {
    return foreign_llama(*llama, origin, options);
  }
  std::string not_mamba;
  if (const auto mamba = to_mamba(recipe.model, not_mamba)) {
    return foreign_mamba(*mamba, origin, options);
  }
  fail_user(
      "no Hugging Face family that can be written has such a model:\n    not llama or mistral: "
      "{}\n "
      "   not mamba: {}",
      not_llama, not_mamba);
}

void export_huggingface(const CheckpointContent& content, const std::string& folder,
                        const ExportOptions& options) {
  const Json state = Json::parse(content.state);
  const Recipe recipe = recipe_there(state);
  const std::optional<Origin> origin =
      state.contains("origin") ? Origin::parse(state["origin"].dump()) : std::nullopt;
  const ForeignModel model = foreign_model(recipe, origin, options);
  std::map<std::string, Tensor> tensors;
  constexpr std::string_view kGroup = "model/";
  for (const NamedTensor& entry : content.tensors) {
    if (entry.name.compare(0, kGroup.size(), kGroup) == 0) {
      tensors[entry.name.substr(kGroup.size())] = entry.tensor;
    }
  }
  GivenWeights weights = give_weights(tensors, model.tensors, origin, options.type,
                                      [](const std::string& note) { log_info("{}", note); });
  write_weight_files(folder, std::move(weights.tensors), weights.metadata, options.max_file_bytes);
  replace_file(join(folder, kConfigFile), model.config);
}

}  // namespace sidewinder
