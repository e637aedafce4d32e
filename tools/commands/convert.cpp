#include "tools/commands/convert.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>

#include "checkpoints/durable.h"
#include "kernels/base/check.h"
#include "recipes/recipe.h"
#include "tools/assemble.h"
#include "tools/commands/table.h"
#include "tools/huggingface.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string clean_path(const std::string& path) {
  fs::path clean = fs::path(path).lexically_normal();
  return clean.has_filename() ? clean.string() : clean.parent_path().string();
}

// Fills a folder under another name and gives it its own when it is whole.
void make_folder(const std::string& to, const std::function<void(const std::string&)>& fill) {
  std::error_code ignored;
  const fs::path target = to;
  if (path_exists(to) && !(fs::is_directory(target) && fs::is_empty(target))) {
    fail_user("{}: is there already; name a folder that does not exist, or an empty one", to);
  }
  const fs::path above = target.parent_path().empty() ? fs::path(".") : target.parent_path();
  create_folder(above.string());
  const std::string temporary = (above / (".tmp-" + target.filename().string())).string();
  fs::remove_all(temporary, ignored);
  try {
    create_folder(temporary);
    fill(temporary);
    flush_path(temporary);
    rename_path(temporary, to);
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
  flush_path(above.string());
}

// The [model] section with its tables.
std::string model_section_text(const std::string& recipe) {
  const size_t begin = recipe.find("[model]");
  const size_t end = recipe.find("\n[data]", begin);
  SIDEWINDER_ASSERT(begin != std::string::npos && end != std::string::npos);
  return recipe.substr(begin, end - begin);
}

int64_t num_elements(const CheckpointContent& content) {
  int64_t result = 0;
  for (const NamedTensor& entry : content.tensors) {
    if (entry.name.rfind("model/", 0) == 0) result += entry.tensor.count();
  }
  return result;
}

std::string line_of(const Recipe& recipe) {
  return fmt::format("\"{}\" x {}, width {}, vocabulary {}", recipe.model.layers,
                     recipe.model.repeat, recipe.model.width, recipe.model.vocabulary);
}

Json import_model(const ConvertCommand& command, const std::string& to) {
  SIDEWINDER_REQUIRE(
      command.type.empty(),
      "--dtype is for writing Hugging Face folders; weights are f32 in a checkpoint");
  CheckpointContent content = import_huggingface(command.from);
  Json state = Json::parse(content.state);
  Recipe recipe = parse_recipe(state["recipe"].get<std::string>(), command.from);
  const auto tokenizer =
      huggingface_tokenizer(command.from, command.tokenizer, recipe.model.vocabulary);
  recipe.run.name = fs::path(to).filename().string();
  recipe.run.folder = to;
  const std::string text = resolved_toml(recipe);
  state["recipe"] = text;
  state["tokenizer_digest"] = tokenizer->digest();
  content.state = state.dump();
  make_folder(to, [&](const std::string& folder) {
    if (!tokenizer->is_bytes()) write_new_file(tokenizer_path(folder), tokenizer->model());
    write_new_file(
        (fs::path(folder) / "model.toml").string(),
        fmt::format("# The model of {}, for recipes that train it further:\n"
                    "#   extends = \"{}/model.toml\"\n#   [init]\n#   from = \"{}\"\n\n{}",
                    command.from, to, to, model_section_text(text)));
    Store(folder).save(content, {});
  });
  const std::string tokenizer_text =
      tokenizer->is_bytes() ? "bytes" : fmt::format("{} pieces", tokenizer->vocabulary());
  fmt::print("from         {}, {}\n", command.from,
             Json::parse(state["origin"]["config"].get<std::string>())["model_type"].dump());
  fmt::print("model        {}\n", line_of(recipe));
  fmt::print("parameters   {} in {} tensors\n", count_text(num_elements(content)),
             content.tensors.size());
  fmt::print("tokenizer    {}\n", tokenizer_text);
  fmt::print("run folder   {}\n", to);
  fmt::print("next         sidewinder generate {} --prompt \"...\"\n", to);
  return {{"direction", "import"},
          {"from", command.from},
          {"to", to},
          {"parameters", num_elements(content)},
          {"tensors", content.tensors.size()},
          {"tokenizer", tokenizer->digest()}};
}

Json export_model(const ConvertCommand& command, const std::string& to) {
  ExportOptions options;
  options.type = command.type == "bf16"  ? "BF16"
                 : command.type == "f16" ? "F16"
                 : command.type == "f32" ? "F32"
                                         : "";
  SIDEWINDER_REQUIRE(command.type.empty() || !options.type.empty(),
                     "--dtype is {}; weights can be written as f32, bf16 or f16", command.type);
  options.max_file_bytes = command.max_file_bytes;
  const CheckpointContent content = load_checkpoint_or_newest(command.from);
  const Json state = Json::parse(content.state);
  const Recipe recipe = parse_recipe(state.at("recipe").get<std::string>(), "stored recipe");
  const auto tokenizer =
      load_tokenizer(command.tokenizer.empty() ? find_tokenizer(command.from) : command.tokenizer);
  const std::string digest = state.value("tokenizer_digest", "");
  SIDEWINDER_REQUIRE(
      digest.empty() || digest == tokenizer->digest(),
      "the tokenizer has digest {} but the model was trained with {}; pass --tokenizer "
      "FILE with the right one",
      tokenizer->digest(), digest);
  options.bos = tokenizer->bos();
  options.eos = tokenizer->eos();
  make_folder(to, [&](const std::string& folder) {
    export_huggingface(content, folder, options);
    if (!tokenizer->is_bytes()) {
      write_new_file((fs::path(folder) / kSentencePieceFile).string(), tokenizer->model());
    }
  });
  const WeightFiles written(to);
  fmt::print("from         {} (step {})\n", command.from, content.step);
  fmt::print("model        {}\n", line_of(recipe));
  fmt::print("tensors      {} in {} file{}\n", written.tensors().size(), written.num_files(),
             written.num_files() == 1 ? "" : "s");
  fmt::print("tokenizer    {}\n",
             tokenizer->is_bytes() ? "bytes, for which there is no file" : kSentencePieceFile);
  fmt::print("folder       {}\n", to);
  return {{"direction", "export"},
          {"from", command.from},
          {"to", to},
          {"step", content.step},
          {"tensors", written.tensors().size()}};
}

}  // namespace

ExitCode convert(const ConvertCommand& command) {
  const std::string to = clean_path(command.to);
  if (!fs::exists(command.from)) fail_user("{}: there is no such folder", command.from);
  const Json result =
      is_huggingface_folder(command.from) ? import_model(command, to) : export_model(command, to);
  if (!command.json_path.empty()) write_text_file(command.json_path, result.dump(2));
  return ExitCode::success;
}

}  // namespace sidewinder
