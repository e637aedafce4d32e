#pragma once
// A model folder as Hugging Face lays it out: config.json, and model.safetensors or its parts with
// model.safetensors.index.json. What is read is not believed unchecked.

#include <nlohmann/json_fwd.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoints/safetensors.h"
#include "kernels/tensor/tensor.h"

namespace sidewinder {

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kWeightsIndex = "model.safetensors.index.json";
inline constexpr const char* kSentencePieceFile = "tokenizer.model";
inline constexpr const char* kTokenizerJson = "tokenizer.json";

// A folder that has a config.json and is no checkpoint of ours.
bool is_huggingface_folder(const std::string& path);

// All tensors of a folder's safetensors files.
class WeightFiles {
 public:
  // Error{environment} for a missing or unsound file, Error{user} where weights are in another
  // format. Of an index, that every name lies in the file it says, that no path leaves the folder,
  // and that the files hold nothing else.
  explicit WeightFiles(const std::string& folder);

  // By file, then in the order of the file.
  const std::vector<const StoredTensor*>& tensors() const { return tensors_; }
  const StoredTensor* find(const std::string& name) const;
  std::vector<char> read(const std::string& name) const;
  // As f32. Adds to *rounded how many elements lost bits (F64 only). Error{user} for integers.
  Tensor read_f32(const std::string& name, int64_t* rounded) const;
  const std::map<std::string, std::string>& metadata() const { return files_.front()->metadata(); }
  size_t num_files() const { return files_.size(); }

 private:
  void add_file(const std::string& path);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<const StoredTensor*> tensors_;
  std::map<std::string, std::pair<const SafetensorsFile*, const StoredTensor*>> by_name_;
};

// Writes the tensors into a folder that has no weights yet: as model.safetensors if they have at
// most `max_file_bytes`, else as parts of at most so many (or of one tensor that has more) in the
// order given, with their index.
void write_weight_files(const std::string& folder, std::vector<TensorToStore> tensors,
                        const std::map<std::string, std::string>& metadata,
                        uint64_t max_file_bytes);

// The text of a JSON file. Error{environment} if it cannot be read or is larger than a MiB.
std::string read_config_text(const std::string& path);
nlohmann::ordered_json parse_config(const std::string& text, const std::string& path);

}  // namespace sidewinder
