#pragma once
// Models of Hugging Face folders as checkpoints of ours, and back. checkpoints/huggingface knows
// their files; here their configs meet our recipes.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "checkpoints/huggingface/transfer.h"
#include "checkpoints/store.h"
#include "data/tokenizer.h"
#include "recipes/recipe.h"

namespace sidewinder {

// The model of a folder as a checkpoint of step 0: weights as "model/…", and a state with a recipe
// and the origin, so that it can be evaluated, generated from, trained from and written back.
// Error{user} naming every key and tensor that cannot be taken over. Logs what was left out.
CheckpointContent import_huggingface(const std::string& folder);

// The tokenizer of a folder: `named` (a SentencePiece file or "bytes") if given, else its
// tokenizer.model, else bytes where the vocabulary is 256. Error{user} where there is none that
// this program can read, or one with more ids than the model has.
std::unique_ptr<Tokenizer> huggingface_tokenizer(const std::string& folder,
                                                 const std::string& named, int64_t vocabulary);

// What stands in config.json and how the tensors lie, for a model of ours.
struct ForeignModel {
  std::string model_type;
  std::string config;  // text; that of the origin, byte for byte, where it still says the truth
  TensorTable tensors;
};

struct ExportOptions {
  std::string type;  // F32, BF16 or F16; empty: as in the origin, else F32
  uint64_t max_file_bytes = 5'000'000'000;
  std::optional<int32_t> bos;  // for a new config
  std::optional<int32_t> eos;
};

// Error{user} where no family has such a model, with the reason for each.
ForeignModel foreign_model(const Recipe& recipe, const std::optional<Origin>& origin,
                           const ExportOptions& options);

// Writes config.json and the weights, in parts where they are large, into a folder that exists.
void export_huggingface(const CheckpointContent& content, const std::string& folder,
                        const ExportOptions& options);

}  // namespace sidewinder
