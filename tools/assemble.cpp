#include "tools/assemble.h"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "kernels/base/check.h"
#include "tools/huggingface.h"

namespace sidewinder {

std::unique_ptr<HybridModel> make_model(const Recipe& recipe) {
  return std::make_unique<HybridModel>(
      recipe.model, Initializer{.seed = recipe.run.seed,
                                .dtype = accumulator_of(dtype_of(recipe.train.precision))});
}

TrainerOptions trainer_options(const Recipe& recipe) {
  TrainerOptions options;
  options.run = recipe.run;
  options.train = recipe.train;
  options.context = recipe.context;
  options.optimizer = recipe.optimizer;
  options.learning_rate = recipe.learning_rate;
  options.data = recipe.data;
  options.checkpoint = recipe.checkpoint;
  options.resolved_recipe = resolved_toml(recipe);
  return options;
}

void load_weights(HybridModel& model, const CheckpointContent& content, const std::string& origin) {
  std::map<std::string, const Tensor*> stored;
  for (const NamedTensor& entry : content.tensors) stored[entry.name] = &entry.tensor;
  model.visit([&](Parameter& parameter) {
    const auto found = stored.find("model/" + parameter.name());
    if (found == stored.end()) {
      fail_user("{} has no tensor {}; its model has other blocks than the recipe's", origin,
                parameter.name());
    }
    SIDEWINDER_REQUIRE(found->second->shape() == parameter.value().shape(),
                       "{} is {} in {} but {} in the recipe's model; the model sections must agree",
                       parameter.name(), found->second->shape().text(), origin,
                       parameter.value().shape().text());
    parameter.mutable_value().copy_from(*found->second);
  });
}

std::string tokenizer_path(const std::string& run_folder) {
  return (std::filesystem::path(run_folder) / "tokenizer.model").string();
}

CheckpointContent load_weights_of(const std::string& path) {
  return is_huggingface_folder(path) ? import_huggingface(path) : load_checkpoint_or_newest(path);
}

std::string origin_of(const CheckpointContent& content) {
  const nlohmann::json state = nlohmann::json::parse(content.state);
  return state.contains("origin") ? state["origin"].dump() : std::string();
}

std::string find_tokenizer(const std::string& path) {
  // A checkpoint folder lies in its run folder.
  const std::filesystem::path folder = std::filesystem::path(path).lexically_normal();
  for (const auto& candidate : {folder, folder.parent_path(), folder.parent_path().parent_path()}) {
    std::string file = tokenizer_path(candidate.string());
    if (std::filesystem::exists(file)) return file;
  }
  return std::string(kBytesTokenizer);
}

TrainedModel load_trained_model(const std::string& path, const LoadOptions& options) {
  const CheckpointContent content = load_weights_of(path);
  const nlohmann::json state = nlohmann::json::parse(content.state);
  TrainedModel trained;
  trained.path = path;
  trained.recipe =
      parse_recipe(state.at("recipe").get<std::string>(), path + " (stored recipe)", options.sets);
  if (options.precision) trained.recipe.train.precision = *options.precision;
  trained.model = make_model(trained.recipe);
  trained.step = content.step;
  trained.tokenizer_digest = state.value("tokenizer_digest", "");
  load_weights(*trained.model, content, path);
  if (state.contains("row_slots")) {
    const ContextSchedule schedule(trained.recipe.context, trained.recipe.train,
                                   trained.recipe.model);
    apply(schedule.at({state.at("step"), state.at("row_slots")}), *trained.model);
  }
  if (is_huggingface_folder(path)) {
    trained.tokenizer =
        huggingface_tokenizer(path, options.tokenizer, trained.recipe.model.vocabulary);
  } else {
    trained.tokenizer =
        load_tokenizer(options.tokenizer.empty() ? find_tokenizer(path) : options.tokenizer);
  }
  return trained;
}

const Tokenizer& text_tokenizer(const TrainedModel& trained) {
  const Tokenizer& tokenizer = *trained.tokenizer;
  SIDEWINDER_REQUIRE(
      trained.tokenizer_digest.empty() || trained.tokenizer_digest == tokenizer.digest(),
      "{} was trained with the tokenizer {} but the one at hand is {}; put the one it was trained "
      "with into the run folder as tokenizer.model, or pass --tokenizer FILE",
      trained.path, trained.tokenizer_digest,
      tokenizer.digest() == kBytesTokenizer ? "bytes, as where there is no tokenizer.model"
                                            : tokenizer.digest());
  SIDEWINDER_REQUIRE(tokenizer.vocabulary() <= trained.recipe.model.vocabulary,
                     "{}: the tokenizer has {} ids but the model's vocabulary is {}; they do not "
                     "belong together",
                     trained.path, tokenizer.vocabulary(), trained.recipe.model.vocabulary);
  return tokenizer;
}

void check_output(const std::string& option, const std::string& path) {
  namespace fs = std::filesystem;
  if (path.empty()) return;
  const fs::path parent = fs::path(path).parent_path();
  const fs::path folder = parent.empty() ? "." : parent;
  if (!fs::is_directory(folder)) {
    fail_environment("{} is {}, but there is no folder {}; make it, or name another file", option,
                     path, folder.string());
  }
  if (fs::is_directory(path)) {
    fail_environment("{} is {}, which is a folder; name a file", option, path);
  }
  const std::string written = fs::exists(path) ? path : folder.string();
  if (::access(written.c_str(), W_OK) != 0) {
    fail_environment("{} is {}, but {} cannot be written: {}; name another file", option, path,
                     written, std::strerror(errno));
  }
}

void write_text_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text << '\n';
  file.close();
  if (!file) {
    fail_environment("cannot write {}; check that its folder exists and has room", path);
  }
}

}  // namespace sidewinder
