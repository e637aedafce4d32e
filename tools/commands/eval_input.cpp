#include "tools/commands/eval_input.h"

#include "data/files.h"
#include "data/text_reader.h"
#include "kernels/base/check.h"

namespace sidewinder {

EvaluatedText read_document(const std::string& path, const TrainedModel& trained) {
  const std::string text = read_file(path);
  require_utf8(text, path, Blame::environment);
  const Tokenizer& tokenizer = text_tokenizer(trained);
  EvaluatedText document = {tokenizer.encode(text), static_cast<int64_t>(text.size())};
  if (tokenizer.eos()) document.tokens.push_back(*tokenizer.eos());
  return document;
}

void require_ids_of_model(const TrainedModel& trained, const std::string& folder,
                          const std::string& digest, int64_t vocabulary) {
  const std::string& known = trained.tokenizer_digest;
  SIDEWINDER_REQUIRE(
      vocabulary <= trained.recipe.model.vocabulary && (known.empty() || known == digest),
      "{} was made with another tokenizer than {} ({}, {} ids; the model has {}, {} ids); tokenize "
      "the text with the model's tokenizer, or use --text",
      folder, trained.path, digest, vocabulary, known.empty() ? "one that is not known" : known,
      trained.recipe.model.vocabulary);
}

nlohmann::json by_position_json(const PositionLosses& losses) {
  nlohmann::json rows = nlohmann::json::array();
  const std::vector<PositionLosses::Bucket>& buckets = losses.buckets();
  for (size_t i = 0; i < buckets.size(); ++i) {
    if (buckets[i].targets == 0) continue;
    rows.push_back({{"first", i == 0 ? 0 : int64_t{1} << (i - 1)},
                    {"last", (int64_t{1} << i) - 1},
                    {"targets", buckets[i].targets},
                    {"loss", buckets[i].sum / static_cast<double>(buckets[i].targets)}});
  }
  return rows;
}

}  // namespace sidewinder
