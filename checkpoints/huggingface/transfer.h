#pragma once
// Carrying weights over by a TensorTable, in both directions, every tensor exactly once. What is
// needed to give the same bytes back (element types, names, config) travels as `Origin` in the
// state of the checkpoint.

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/huggingface/folder.h"
#include "checkpoints/huggingface/tensor_table.h"
#include "checkpoints/store.h"

namespace sidewinder {

struct Origin {
  std::string config;                           // text of config.json
  std::string prefix;                           // before all names: "module."
  std::map<std::string, std::string> types;     // element type by their name, without prefix
  std::map<std::string, std::string> metadata;  // of the first safetensors file
  bool has_tied_head = false;                   // the file repeats the embedding as output layer

  std::string json() const;
  // Empty text or null: nothing. Error{environment} if it is something else.
  static std::optional<Origin> parse(const std::string& json);
};

enum class HeadInFile : uint8_t { absent, like_embedding, other };
// What the file has as output layer, whatever the config says.
HeadInFile head_in_file(const WeightFiles& files, const TensorTable& table);

struct TakenWeights {
  std::vector<NamedTensor> tensors;  // "model/…", f32
  Origin origin;                     // all but `config`
  std::vector<std::string> notes;    // for the log
};
// Error{user} that lists which tensors of the table are not in the files, which are in the files
// and not in the table, and which have another shape.
TakenWeights take_weights(const WeightFiles& files, const TensorTable& table);

struct GivenWeights {
  std::vector<TensorToStore> tensors;
  std::map<std::string, std::string> metadata;
};
// `ours`: by name without "model/". `type`: element type of all that may be rounded; empty: as in
// the origin, or F32. Error{user} if an element is too large for its type. `ours` must outlive the
// result.
GivenWeights give_weights(const std::map<std::string, Tensor>& ours, const TensorTable& table,
                          const std::optional<Origin>& origin, std::string_view type,
                          const std::function<void(const std::string&)>& note);

}  // namespace sidewinder
