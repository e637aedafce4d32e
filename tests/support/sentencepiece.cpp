#include "tests/support/sentencepiece.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

namespace sidewinder::testing {

std::vector<int32_t> whole_call(const std::string& model, const std::string& text) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.LoadFromSerializedProto(model).ok());
  std::vector<int> ids;
  EXPECT_TRUE(processor.Encode(text, &ids).ok());
  return {ids.begin(), ids.end()};
}

std::vector<int32_t> cut_finely(const Tokenizer& tokenizer, const CutRule& rule,
                                std::string_view text) {
  std::vector<int32_t> ids;
  for (const std::string_view part : rule.split(text, 1)) tokenizer.encode_part(part, ids);
  return ids;
}

}  // namespace sidewinder::testing
