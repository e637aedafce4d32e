#include "tests/support/huggingface_folder.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "checkpoints/huggingface/folder.h"
#include "checkpoints/huggingface/llama.h"
#include "checkpoints/huggingface/mamba.h"
#include "tests/support/message_of.h"
#include "tests/support/random.h"

namespace sidewinder::testing {
namespace {

using Json = nlohmann::ordered_json;

Json changed(Json config, const Json& changes) {
  if (changes.is_null()) return config;
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return config;
}

}  // namespace

Json tiny_llama_config(const Json& changes) {
  return changed({{"architectures", {"LlamaForCausalLM"}},
                  {"model_type", "llama"},
                  {"vocab_size", 256},
                  {"hidden_size", 32},
                  {"intermediate_size", 48},
                  {"num_hidden_layers", 2},
                  {"num_attention_heads", 4},
                  {"num_key_value_heads", 2},
                  {"max_position_embeddings", 64},
                  {"rms_norm_eps", 1e-5},
                  {"rope_theta", 10000.0},
                  {"hidden_act", "silu"},
                  {"tie_word_embeddings", false},
                  {"torch_dtype", "float32"}},
                 changes);
}

Json tiny_mamba_config(const Json& changes) {
  return changed({{"architectures", {"MambaForCausalLM"}},
                  {"model_type", "mamba"},
                  {"vocab_size", 256},
                  {"hidden_size", 24},
                  {"state_size", 4},
                  {"num_hidden_layers", 2},
                  {"expand", 2},
                  {"conv_kernel", 4},
                  {"time_step_rank", 3},
                  {"use_bias", false},
                  {"use_conv_bias", true},
                  {"hidden_act", "silu"},
                  {"layer_norm_epsilon", 1e-5},
                  {"tie_word_embeddings", true},
                  {"torch_dtype", "float32"}},
                 changes);
}

void write_huggingface_folder(const std::string& folder, const Json& config,
                              const TensorTable& table, const std::string& type,
                              const std::map<std::string, std::string>& types) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/" + kConfigFile) << config.dump(1);
  std::vector<TensorToStore> tensors;
  uint64_t seed = 100;
  for (const TensorRule& rule : table.rules) {
    for (const TensorPart& part : rule.parts) {
      const auto found = types.find(part.name);
      TensorToStore tensor{part.name,
                           *find_element_type(found == types.end() ? type : found->second),
                           part.shape,
                           {}};
      const StoredTensor stored{part.name, tensor.type, part.shape, 0, 0};
      tensor.bytes = [stored, seed] {
        const Tensor values = random_normal({stored.count()}, Dtype::f32, seed);
        std::vector<float> scaled(static_cast<size_t>(stored.count()));
        for (size_t i = 0; i < scaled.size(); ++i) scaled[i] = 0.05F * values.data<float>()[i];
        std::vector<char> bytes(scaled.size() * static_cast<size_t>(stored.type.bits) / 8);
        elements_from_f32(stored.type, scaled.data(), stored.count(), bytes.data());
        return bytes;
      };
      tensors.push_back(tensor);
      ++seed;
    }
  }
  write_safetensors(folder + "/" + kWeightsFile, tensors, {{"format", "pt"}});
}

void write_huggingface_folder(const std::string& folder, const Json& config,
                              const std::string& type) {
  const TensorTable table = config.at("model_type") == "mamba"
                                ? mamba_tensors(read_mamba_config(config, "test"))
                                : llama_tensors(read_llama_config(config, "test"));
  write_huggingface_folder(folder, config, table, type);
}

PartShapes part_shapes(const TensorTable& table) {
  PartShapes shapes;
  for (const TensorRule& rule : table.rules) {
    for (const TensorPart& part : rule.parts) shapes[part.name] = part.shape;
  }
  return shapes;
}

std::string refusal_of(const std::function<void()>& call) {
  const std::string begin = "config.json: this model cannot be taken over:\n    ";
  const std::string text = message_of(call);
  EXPECT_EQ(text.substr(0, begin.size()), begin);
  return text.substr(std::min(begin.size(), text.size()));
}

std::map<std::string, std::string> tensor_bytes(const std::string& folder) {
  const WeightFiles files(folder);
  std::map<std::string, std::string> result;
  for (const StoredTensor* tensor : files.tensors()) {
    const std::vector<char> bytes = files.read(tensor->name);
    result[tensor->name] = std::string(tensor->type.name) + tensor->shape_text() +
                           std::string(bytes.begin(), bytes.end());
  }
  return result;
}

}  // namespace sidewinder::testing
