#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <map>

#include "checkpoints/huggingface/folder.h"
#include "kernels/base/error.h"
#include "kernels/base/text.h"
#include "recipes/recipe.h"
#include "tools/commands/inspect.h"
#include "tools/commands/table.h"
#include "tools/commands/tensor_statistics.h"
#include "tools/huggingface.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class TensorList {
 public:
  explicit TensorList(bool values) : shows_values_(values) {
    rows_.push_back({"tensor", "type", "shape", "bytes"});
    if (values)
      rows_.front().insert(rows_.front().end(), {"mean", "deviation", "largest", "not finite"});
  }

  void add(const StoredTensor& tensor, const std::vector<char>& bytes) {
    ++count_;
    elements_ += tensor.count();
    bytes_ += tensor.bytes;
    by_type_[std::string(tensor.type.name)] += tensor.count();
    TableRow row = {line_text(tensor.name, 100), std::string(tensor.type.name), tensor.shape_text(),
                    count_text(static_cast<int64_t>(tensor.bytes))};
    Json entry = {{"name", tensor.name},
                  {"dtype", tensor.type.name},
                  {"shape", tensor.shape},
                  {"bytes", tensor.bytes}};
    if (shows_values_ && is_convertible(tensor.type)) add_values(tensor, bytes, row, entry);
    while (row.size() < rows_.front().size()) row.emplace_back();
    rows_.push_back(row);
    list_.push_back(entry);
  }

  void print(Json& result) const {
    std::string types;
    for (const auto& [type, count] : by_type_) {
      types += fmt::format("{}{} {}", types.empty() ? "" : ", ", count_text(count), type);
    }
    fmt::print("tensors      {} of {} elements ({}), {}\n", count_, count_text(elements_), types,
               bytes_text(bytes_));
    fmt::print("\n{}", table_text(rows_, "lllrrrrr"));
    result["elements"] = elements_;
    result["bytes"] = bytes_;
    result["tensors"] = list_;
  }

 private:
  void add_values(const StoredTensor& tensor, const std::vector<char>& bytes, TableRow& row,
                  Json& entry) const {
    std::vector<float> elements(static_cast<size_t>(tensor.count()));
    elements_to_f32(tensor.type, bytes.data(), tensor.count(), elements.data());
    const TensorStatistics values = statistics_of(std::span<const float>(elements));
    row.insert(row.end(),
               {fmt::format("{:.3e}", values.mean), fmt::format("{:.3e}", values.deviation),
                fmt::format("{:.3e}", values.largest), count_text(values.not_finite)});
    entry["mean"] = values.mean;
    entry["deviation"] = values.deviation;
    entry["largest"] = values.largest;
    entry["not_finite"] = values.not_finite;
  }

  bool shows_values_;
  int64_t count_ = 0;
  int64_t elements_ = 0;
  uint64_t bytes_ = 0;
  std::map<std::string, int64_t> by_type_;
  std::vector<TableRow> rows_;
  Json list_ = Json::array();
};

// Whether and how the model can be taken over; a model that cannot is still shown.
void print_model(const std::string& folder, Json& result) {
  const std::string path = (fs::path(folder) / kConfigFile).string();
  const Json config = parse_config(read_config_text(path), path);
  result["config"] = config;
  fmt::print("folder       {}\n", folder);
  fmt::print("model type   {}\n",
             config.contains("model_type") ? config["model_type"].dump() : "?");
  try {
    const Json state = Json::parse(import_huggingface(folder).state);
    const Recipe recipe = parse_recipe(state["recipe"].get<std::string>(), folder);
    fmt::print("layers       \"{}\" x {}, width {}, vocabulary {}, context {}\n",
               recipe.model.layers, recipe.model.repeat, recipe.model.width,
               recipe.model.vocabulary,
               recipe.model.max_context > 0 ? count_text(recipe.model.max_context) : "any");
    result["problem"] = nullptr;
  } catch (const Error& error) {
    fmt::print("problem      {}\n", error.what());
    result["problem"] = error.what();
  }
}

}  // namespace

Json inspect_huggingface(const std::string& path, bool values) {
  Json result = {{"kind", "safetensors"}, {"path", path}};
  TensorList list(values);
  if (!fs::is_directory(path)) {
    const SafetensorsFile file(path);
    fmt::print("file         {}\n", path);
    for (const auto& [key, value] : file.metadata()) {
      fmt::print("metadata     {}: {}\n", line_text(key, 40), line_text(value, 80));
    }
    for (const StoredTensor& tensor : file.tensors()) {
      list.add(tensor, values ? file.read(tensor) : std::vector<char>());
    }
    result["metadata"] = file.metadata();
  } else {
    result["kind"] = "huggingface";
    print_model(path, result);
    const WeightFiles files(path);
    for (const StoredTensor* tensor : files.tensors()) {
      list.add(*tensor, values ? files.read(tensor->name) : std::vector<char>());
    }
  }
  list.print(result);
  return result;
}

}  // namespace sidewinder
