#include "tools/commands/inspect.h"

#include <nlohmann/json.hpp>

#include <filesystem>

#include "checkpoints/huggingface/folder.h"
#include "checkpoints/manifest.h"
#include "checkpoints/store.h"
#include "data/corpus.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;

bool is_corpus(const fs::path& path) {
  // The folder itself, one of its parts, or one shard file.
  return fs::exists(path / kIndexFile) || fs::exists(path.parent_path() / kIndexFile) ||
         (fs::is_regular_file(path) && path.extension() == ".h5" &&
          !fs::exists(path.parent_path() / Manifest::kFileName));
}

bool is_checkpoint(const fs::path& path) {
  if (!fs::is_directory(path)) return false;
  return fs::exists(path / Manifest::kFileName) || !list_checkpoints(path.string()).empty() ||
         !list_set_aside(path.string()).empty() || path.filename().string().rfind("step-", 0) == 0;
}

}  // namespace

ExitCode inspect(const InspectCommand& command) {
  fs::path path = fs::path(command.path).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (!fs::exists(path)) fail_user("{}: there is no such file or folder", command.path);
  if (path.filename() == Manifest::kFileName || path.filename().string().rfind("rank-", 0) == 0) {
    path = path.parent_path();  // a file of a checkpoint
  }
  nlohmann::ordered_json result;
  if (path.extension() == ".safetensors" || is_huggingface_folder(path.string())) {
    result = inspect_huggingface(path.string(), command.tensors);
  } else if (is_corpus(path)) {
    result = inspect_corpus(path.string());
  } else if (is_checkpoint(path)) {
    result = inspect_checkpoints(path.string(), command.tensors);
  } else {
    fail_user(
        "{}: is neither a run folder or checkpoint (step-…), nor a corpus or token shard (.h5), nor a "
        "Hugging Face folder or .safetensors file",
        command.path);
  }
  if (!command.json_path.empty()) {
    // A preview may end within a character.
    constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
    write_text_file(command.json_path, result.dump(2, ' ', false, kReplace));
  }
  return ExitCode::success;
}

}  // namespace sidewinder
