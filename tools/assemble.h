#pragma once
// From a Recipe, or from a checkpoint's stored recipe, to the parts of a run. The only place where
// all folders meet.

#include <memory>
#include <optional>
#include <string>

#include "checkpoints/store.h"
#include "data/tokenizer.h"
#include "model/model.h"
#include "recipes/recipe.h"
#include "trainer/trainer.h"

namespace sidewinder {

std::unique_ptr<HybridModel> make_model(const Recipe& recipe);
TrainerOptions trainer_options(const Recipe& recipe);

// Copies the checkpoint's weights into the model. Error{user} naming the first tensor that does not
// fit.
void load_weights(HybridModel& model, const CheckpointContent& content, const std::string& origin);

// A checkpoint, the newest of a run, or the model of a Hugging Face folder as a checkpoint.
CheckpointContent load_weights_of(const std::string& path);
// Where the weights came from first, as text for TrainerOptions::origin; empty: from here.
std::string origin_of(const CheckpointContent& content);

// A trained model as it lies in a run folder, in one of its checkpoint folders or in a Hugging Face
// folder.
struct TrainedModel {
  std::string path;  // as given
  Recipe recipe;
  std::unique_ptr<HybridModel> model;
  std::unique_ptr<Tokenizer> tokenizer;
  int64_t step = 0;
  std::string tokenizer_digest;  // of the training data; empty: not known
};
struct LoadOptions {
  std::optional<Precision> precision = {};  // none: the recipe's
  std::string tokenizer = {};               // file, or "bytes"; empty: the one of the run
  std::vector<std::string> sets = {};  // key=value, over the stored recipe: the model as it is used
};
// `path`: a run folder (its newest sound checkpoint), a checkpoint folder or a Hugging Face folder.
TrainedModel load_trained_model(const std::string& path, const LoadOptions& options = {});
// The tokenizer found, for what reads or writes text. Error{user} if it is not the one that the
// model was trained with.
const Tokenizer& text_tokenizer(const TrainedModel& trained);

// Where `train` keeps the tokenizer of a run.
std::string tokenizer_path(const std::string& run_folder);
// The tokenizer of a run, by its folder or that of one of its checkpoints: a path, or "bytes".
std::string find_tokenizer(const std::string& path);

// Error{environment} if no file can be written at `path`, given with `option`: for results that
// long work ends with. An empty path is none.
void check_output(const std::string& option, const std::string& path);
// Writes `text` to `path` (for --json); Error{environment} if that fails.
void write_text_file(const std::string& path, const std::string& text);

}  // namespace sidewinder
