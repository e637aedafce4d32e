#pragma once

#include <cstdint>
#include <string>

#include "kernels/base/error.h"

namespace sidewinder {

struct ConvertCommand {
  std::string from;       // a Hugging Face folder, or a run or checkpoint folder
  std::string to;         // the folder to make
  std::string tokenizer;  // SentencePiece file or "bytes"; empty: the one in `from`
  std::string type;       // f32, bf16 or f16 of a Hugging Face folder; empty: as it came, else f32
  uint64_t max_file_bytes = 5'000'000'000;  // of a safetensors file, unless one tensor has more
  std::string json_path;
};

// Hugging Face folder → run folder with one checkpoint, a tokenizer, and model.toml for recipes;
// run or checkpoint → Hugging Face folder. `to` appears whole or not at all.
ExitCode convert(const ConvertCommand& command);

}  // namespace sidewinder
