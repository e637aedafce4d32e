#pragma once
// What the ways of `eval` to read and to report a text have in common.

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "tools/assemble.h"
#include "trainer/position_losses.h"

namespace sidewinder {

struct EvaluatedText {
  std::vector<int32_t> tokens;  // with EOS behind them, where the tokenizer has one
  int64_t bytes = 0;            // of the text
};
// A file as one document. Error{environment} if it cannot be read or is not UTF-8.
EvaluatedText read_document(const std::string& path, const TrainedModel& trained);

// Error{user} if the shards in `folder` hold ids of another tokenizer than the model was trained
// with.
void require_ids_of_model(const TrainedModel& trained, const std::string& folder,
                          const std::string& digest, int64_t vocabulary);

// [{"first": 0, "last": 0, "targets": …, "loss": …}, …], buckets without targets left out.
nlohmann::json by_position_json(const PositionLosses& losses);

}  // namespace sidewinder
