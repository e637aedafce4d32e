#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>

#include "checkpoints/manifest.h"
#include "checkpoints/store.h"
#include "checkpoints/verify.h"
#include "kernels/base/text.h"
#include "model/options.h"
#include "recipes/recipe.h"
#include "tools/commands/inspect.h"
#include "tools/commands/table.h"
#include "tools/commands/tensor_statistics.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

template <typename T>
TensorStatistics statistics_as(const Tensor& tensor) {
  return statistics_of(std::span<const T>(tensor.data<T>(), static_cast<size_t>(tensor.count())));
}

TensorStatistics statistics_of(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case Dtype::f32: return statistics_as<float>(tensor);
    case Dtype::f64: return statistics_as<double>(tensor);
    case Dtype::i32: return statistics_as<int32_t>(tensor);
    case Dtype::bf16: break;
  }
  return statistics_as<float>(tensor.to(Dtype::f32));
}

uint64_t total_bytes(const Manifest& manifest) {
  uint64_t bytes = 0;
  for (const FileRecord& file : manifest.files) bytes += file.bytes;
  return bytes;
}

// "model" of "model/blocks.0.norm.weight".
std::string group_of(const std::string& name) { return name.substr(0, name.find('/')); }

void print_groups(const Manifest& manifest, Json& result) {
  struct Group {
    int64_t tensors = 0;
    int64_t elements = 0;
    uint64_t bytes = 0;
  };
  std::map<std::string, Group> groups;
  for (const TensorRecord& tensor : manifest.tensors) {
    Group& group = groups[group_of(tensor.name)];
    ++group.tensors;
    group.elements += static_cast<int64_t>(tensor.bytes / size_of(tensor.dtype));
    group.bytes += tensor.bytes;
  }
  std::vector<TableRow> rows = {{"group", "tensors", "elements", "bytes"}};
  for (const auto& [name, group] : groups) {
    rows.push_back(
        {name, count_text(group.tensors), count_text(group.elements), bytes_text(group.bytes)});
    result["groups"][name] = {
        {"tensors", group.tensors}, {"elements", group.elements}, {"bytes", group.bytes}};
  }
  fmt::print("\n{}", table_text(rows, "lrrr"));
}

// Reads every tensor: this is also the verification of their digests.
void print_tensors(const std::string& folder, const Manifest& manifest, bool show, Json& result) {
  std::vector<TableRow> rows = {
      {"tensor", "type", "shape", "mean", "deviation", "largest", "not finite"}};
  int64_t not_finite = 0;
  result["tensors"] = Json::array();
  for (const TensorRecord& record : manifest.tensors) {
    const Tensor tensor = read_tensor(folder, record);
    const TensorStatistics statistics = statistics_of(tensor);
    not_finite += statistics.not_finite;
    if (!show) continue;
    rows.push_back({record.name, std::string(name_of(record.dtype)), tensor.shape().text(),
                    fmt::format("{:.3e}", statistics.mean),
                    fmt::format("{:.3e}", statistics.deviation),
                    fmt::format("{:.3e}", statistics.largest), count_text(statistics.not_finite)});
    result["tensors"].push_back({{"name", record.name},
                                 {"dtype", name_of(record.dtype)},
                                 {"shape", record.shape},
                                 {"mean", statistics.mean},
                                 {"deviation", statistics.deviation},
                                 {"largest", statistics.largest},
                                 {"not_finite", statistics.not_finite},
                                 {"digest", record.digest}});
  }
  if (show) {
    fmt::print("\n{}", table_text(rows, "lllrrrr"));
  } else {
    result.erase("tensors");
  }
  result["not_finite"] = not_finite;
  if (not_finite > 0) fmt::print("\nelements that are not finite: {}\n", count_text(not_finite));
}

void print_recipe(const std::string& text) {
  try {
    const Recipe recipe = parse_recipe(text, "stored recipe");
    fmt::print("\nrecipe       {}\n", recipe.run.name);
    fmt::print("layers       \"{}\" x {}, width {}, vocabulary {}\n", recipe.model.layers,
               recipe.model.repeat, recipe.model.width, recipe.model.vocabulary);
    fmt::print("training     {} steps of {} tokens, context {}, peak learning rate {}\n",
               recipe.train.steps, count_text(recipe.train.tokens_per_step),
               count_text(recipe.train.context), recipe.learning_rate.peak);
  } catch (const Error& error) {
    fmt::print("\nthe stored recipe cannot be read by this program: {}\n", error.what());
  }
}

void print_state(const Json& state) {
  std::vector<TableRow> rows = {{"state", "value"}};
  for (const auto& [key, value] : state.items()) {
    if (key == "recipe" && value.is_string()) continue;  // summarised above
    rows.push_back(
        {key, line_text(value.is_string() ? value.get<std::string>() : value.dump(), 80)});
  }
  fmt::print("\n{}", table_text(rows, "ll"));
}

Json print_checkpoint(const std::string& folder, bool tensors) {
  const Manifest manifest = read_manifest(folder);
  for (const FileRecord& file : manifest.files) verify_file(folder, file);
  fmt::print("checkpoint   {}\n", folder);
  fmt::print("step         {}\n", manifest.step);
  fmt::print("size         {} in {} file{}, all digests verified\n",
             bytes_text(total_bytes(manifest)), manifest.files.size(),
             manifest.files.size() == 1 ? "" : "s");
  Json result = {{"kind", "checkpoint"},
                 {"folder", folder},
                 {"step", manifest.step},
                 {"bytes", total_bytes(manifest)}};
  const Json state = Json::parse(manifest.state);
  if (state.contains("recipe") && state["recipe"].is_string()) {
    print_recipe(state["recipe"].get<std::string>());
  }
  print_state(state);
  result["state"] = state;
  print_groups(manifest, result);
  print_tensors(folder, manifest, tensors, result);
  return result;
}

// The checkpoints of a run, newest first, then those that were set aside; the files of all are
// verified.
Json print_list(const std::string& folder, std::optional<std::string>& newest) {
  std::vector<TableRow> rows = {{"step", "size", "condition"}};
  Json list = Json::array();
  const auto add = [&](const std::string& name, Json entry) {
    const std::string path = entry["folder"];
    try {
      const Manifest manifest = read_manifest(path);
      for (const FileRecord& file : manifest.files) verify_file(path, file);
      rows.push_back({name, bytes_text(total_bytes(manifest)), "sound"});
      entry["bytes"] = total_bytes(manifest);
      entry["problem"] = nullptr;
    } catch (const DamagedCheckpoint& error) {
      rows.push_back({name, "", error.what()});
      entry["problem"] = error.what();
    }
    list.push_back(entry);
    return entry["problem"].is_null();
  };
  for (const FoundCheckpoint& found : list_checkpoints(folder)) {
    const bool sound =
        add(std::to_string(found.step), {{"folder", found.folder}, {"step", found.step}});
    if (sound && !newest) newest = found.folder;
  }
  for (const std::string& path : list_set_aside(folder)) {
    add(fs::path(path).filename().string(), {{"folder", path}});
  }
  fmt::print("{}\n", table_text(rows, "rrl"));
  return list;
}

}  // namespace

Json inspect_checkpoints(const std::string& path, bool tensors) {
  if (list_checkpoints(path).empty() && list_set_aside(path).empty()) {
    try {
      return print_checkpoint(path, tensors);
    } catch (const DamagedCheckpoint& problem) {
      fail_damaged(problem, path);
    }
  }
  std::optional<std::string> newest;
  const Json list = print_list(path, newest);
  if (!newest) fail_all_damaged(path);
  Json result = print_checkpoint(*newest, tensors);
  result["checkpoints"] = list;
  return result;
}

}  // namespace sidewinder
