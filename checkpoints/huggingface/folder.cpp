#include "checkpoints/huggingface/folder.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <set>

#include "checkpoints/manifest.h"
#include "checkpoints/strict_json.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxIndexBytes = uint64_t{128} << 20;

std::string join(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

std::string read_text(const std::string& path, uint64_t limit) {
  const OpenFile file(path, O_RDONLY);
  const uint64_t size = file.bytes();
  if (size > limit) fail_environment("{}: has {} bytes; at most {} are read", path, size, limit);
  std::string text(size, '\0');
  if (!file.read(text.data(), size, 0)) fail_environment("{}: was cut off while it was read", path);
  return text;
}

// Name of the tensor → name of the file, of an index that makes sense by itself.
std::map<std::string, std::string> read_index(const std::string& path) {
  const Json index = parse_strict_json(read_text(path, kMaxIndexBytes), path + ":");
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty()) {
    fail_environment("{}: weight_map is missing; it says which file has which tensor", path);
  }
  std::map<std::string, std::string> result;
  for (const auto& [name, value] : map->items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    if (file.empty() || file.front() == '.' ||
        file.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
      fail_environment("{}: tensor {} lies in {}, which does not name a file of this folder", path,
                       name, value.dump());
    }
    result[name] = file;
  }
  return result;
}

}  // namespace

bool is_huggingface_folder(const std::string& path) {
  return fs::is_regular_file(fs::path(path) / kConfigFile) &&
         !fs::exists(fs::path(path) / Manifest::kFileName);
}

void WeightFiles::add_file(const std::string& path) {
  files_.push_back(std::make_unique<SafetensorsFile>(path));
  const SafetensorsFile& file = *files_.back();
  for (const StoredTensor& tensor : file.tensors()) {
    if (!by_name_.emplace(tensor.name, std::pair{&file, &tensor}).second) {
      fail_environment("{}: tensor {} is in {}, too", path, tensor.name,
                       by_name_.at(tensor.name).first->path());
    }
    tensors_.push_back(&tensor);
  }
}

WeightFiles::WeightFiles(const std::string& folder) {
  const std::string single = join(folder, kWeightsFile);
  const std::string index_path = join(folder, kWeightsIndex);
  if (fs::exists(single)) {
    add_file(single);
    return;
  }
  if (!fs::exists(index_path)) {
    if (fs::exists(join(folder, "pytorch_model.bin")) ||
        fs::exists(join(folder, "pytorch_model.bin.index.json"))) {
      fail_user(
          "{}: has its weights as pytorch_model.bin, a pickle, which can run programs; make a "
          "model.safetensors of it with `safetensors.torch.save_file`",
          folder);
    }
    fail_environment("{}: has neither {} nor {}; they hold the weights", folder, kWeightsFile,
                     kWeightsIndex);
  }
  const std::map<std::string, std::string> index = read_index(index_path);
  std::set<std::string> files;
  for (const auto& [name, file] : index) files.insert(file);
  for (const std::string& file : files) {
    if (!fs::exists(join(folder, file))) {
      fail_environment("{}: {} is missing, in which its tensors should lie; get the whole model",
                       index_path, file);
    }
    add_file(join(folder, file));
  }
  for (const auto& [name, file] : index) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end() || found->second.first->path() != join(folder, file)) {
      fail_environment("{}: tensor {} is not in {}, where it should be", index_path, name, file);
    }
  }
  for (const StoredTensor* tensor : tensors_) {
    if (index.count(tensor->name) == 0) {
      fail_environment("{}: tensor {} is in {} but not in the index", index_path, tensor->name,
                       by_name_.at(tensor->name).first->path());
    }
  }
}

const StoredTensor* WeightFiles::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second.second;
}

std::vector<char> WeightFiles::read(const std::string& name) const {
  const auto& [file, tensor] = by_name_.at(name);
  return file->read(*tensor);
}

Tensor WeightFiles::read_f32(const std::string& name, int64_t* rounded) const {
  const auto& [file, tensor] = by_name_.at(name);
  SIDEWINDER_REQUIRE(is_convertible(tensor->type),
                     "{}: tensor {} has elements of type {}; weights must be F32, BF16, F16 or F64",
                     file->path(), name, tensor->type.name);
  const int64_t count = tensor->count();
  Tensor result = Tensor::empty({count}, Dtype::f32);
  const std::vector<char> bytes = file->read(*tensor);
  *rounded += elements_to_f32(tensor->type, bytes.data(), count, result.data<float>());
  return result;
}

void write_weight_files(const std::string& folder, std::vector<TensorToStore> tensors,
                        const std::map<std::string, std::string>& metadata,
                        uint64_t max_file_bytes) {
  std::vector<std::vector<TensorToStore>> parts;
  uint64_t total = 0;
  uint64_t in_part = 0;
  for (TensorToStore& tensor : tensors) {
    const uint64_t bytes = tensor.num_bytes();
    if (parts.empty() || in_part + bytes > max_file_bytes) {
      parts.emplace_back();
      in_part = 0;
    }
    in_part += bytes;
    total += bytes;
    parts.back().push_back(std::move(tensor));
  }
  if (parts.size() <= 1) {
    parts.resize(1);
    return write_safetensors(join(folder, kWeightsFile), std::move(parts[0]), metadata);
  }
  Json weight_map = Json::object();
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, parts.size());
    for (const TensorToStore& tensor : parts[i]) weight_map[tensor.name] = file;
    write_safetensors(join(folder, file), std::move(parts[i]), metadata);
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  replace_file(join(folder, kWeightsIndex), index.dump(2) + "\n");
}

std::string read_config_text(const std::string& path) { return read_text(path, uint64_t{1} << 20); }

Json parse_config(const std::string& text, const std::string& path) {
  return parse_strict_json(text, path + ":");
}

}  // namespace sidewinder
