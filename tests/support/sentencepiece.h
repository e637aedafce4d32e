#pragma once
// What the SentencePiece library answers for a text in one call, to compare with encoding in parts.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"

namespace sidewinder::testing {

std::vector<int32_t> whole_call(const std::string& model, const std::string& text);
// The ids of the text cut as often as the rule allows.
std::vector<int32_t> cut_finely(const Tokenizer& tokenizer, const CutRule& rule,
                                std::string_view text);

}  // namespace sidewinder::testing
