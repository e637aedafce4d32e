#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <optional>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "kernels/base/text.h"
#include "tools/commands/inspect.h"
#include "tools/commands/table.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kPreviewTokens = 64;

// Documents by length: bucket i holds lengths 2^(i-1) to 2^i - 1 (bucket 0: empty documents).
struct LengthHistogram {
  std::vector<int64_t> documents;
  std::vector<int64_t> tokens;

  void add(int64_t length) {
    const auto bucket = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(length)));
    if (documents.size() <= bucket) {
      documents.resize(bucket + 1);
      tokens.resize(bucket + 1);
    }
    ++documents[bucket];
    tokens[bucket] += length;
  }
};

std::string bucket_text(size_t bucket) {
  if (bucket == 0) return "0";
  const int64_t first = int64_t{1} << (bucket - 1);
  return bucket == 1 ? "1" : fmt::format("{}–{}", count_text(first), count_text(2 * first - 1));
}

Json print_histogram(const LengthHistogram& histogram) {
  int64_t total = 0;
  int64_t most = 1;
  for (const int64_t tokens : histogram.tokens) {
    total += tokens;
    most = std::max(most, tokens);
  }
  std::vector<TableRow> rows = {{"length", "documents", "tokens", "share of tokens"}};
  Json result = Json::array();
  for (size_t i = 0; i < histogram.documents.size(); ++i) {
    if (histogram.documents[i] == 0) continue;
    const double share =
        total == 0 ? 0
                   : 100.0 * static_cast<double>(histogram.tokens[i]) / static_cast<double>(total);
    const auto bar = static_cast<size_t>(30 * histogram.tokens[i] / most);
    rows.push_back({bucket_text(i), count_text(histogram.documents[i]),
                    count_text(histogram.tokens[i]),
                    fmt::format("{:5.1f} % {}", share, std::string(bar, '#'))});
    result.push_back({{"below", int64_t{1} << i},
                      {"documents", histogram.documents[i]},
                      {"tokens", histogram.tokens[i]}});
  }
  fmt::print("\n{}", table_text(rows, "rrrl"));
  return result;
}

std::string preview(ShardReader& shard, const Tokenizer& tokenizer) {
  if (shard.documents() == 0) return "";
  std::vector<int32_t> ids(static_cast<size_t>(std::min(kPreviewTokens, shard.document_length(0))));
  shard.read(0, 0, ids);
  return tokenizer.decode(ids);
}

void print_first_words(ShardReader& shard, const Tokenizer* tokenizer, Json& result) {
  if (tokenizer == nullptr || shard.documents() == 0) return;
  const std::string text = preview(shard, *tokenizer);
  fmt::print("\nfirst words  {}\n", line_text(text, 200));
  result["first_words"] = text;
}

Json print_part(const std::string& name, const std::string& folder,
                const std::vector<ShardRecord>& records, const Tokenizer* tokenizer) {
  if (records.empty()) return nullptr;
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t bytes = 0;
  LengthHistogram histogram;
  std::vector<TableRow> rows = {{"shard", "documents", "tokens", "longest", "size"}};
  Json result;
  for (const ShardRecord& record : records) {
    ShardReader shard(folder, record);
    shard.verify();
    for (int64_t i = 0; i < shard.documents(); ++i) histogram.add(shard.document_length(i));
    documents += record.documents;
    tokens += record.tokens;
    bytes += record.text_bytes;
    rows.push_back({record.file, count_text(record.documents), count_text(record.tokens),
                    count_text(record.longest_document), bytes_text(record.file_bytes)});
    result["shards"].push_back({{"file", record.file},
                                {"documents", record.documents},
                                {"tokens", record.tokens},
                                {"longest_document", record.longest_document},
                                {"bytes", record.file_bytes}});
  }
  result["documents"] = documents;
  result["tokens"] = tokens;
  result["text_bytes"] = bytes;
  fmt::print("\n{:<12} {} documents, {} tokens, {} of text", name, count_text(documents),
             count_text(tokens), bytes_text(static_cast<uint64_t>(bytes)));
  if (tokens > 0) {
    fmt::print(" ({:.2f} bytes a token)", static_cast<double>(bytes) / static_cast<double>(tokens));
  }
  fmt::print("; all digests verified\n\n{}", table_text(rows, "lrrrr"));
  result["lengths"] = print_histogram(histogram);
  ShardReader first(folder, records.front());
  print_first_words(first, tokenizer, result);
  return result;
}

std::string special_id(int64_t id) { return id < 0 ? "none" : std::to_string(id); }

Json inspect_folder(const std::string& path) {
  const Corpus corpus(path);
  const CorpusIndex& index = corpus.index();
  const std::string file = corpus.tokenizer_file();
  const std::unique_ptr<Tokenizer> tokenizer =
      load_tokenizer(file.empty() ? std::string(kBytesTokenizer) : file, index.tokenizer_digest);
  fmt::print("corpus       {}\n", corpus.folder());
  fmt::print(
      "tokenizer    {}, vocabulary {}\n",
      file.empty() ? "bytes" : fmt::format("SentencePiece, digest {}", index.tokenizer_digest),
      index.vocabulary);
  fmt::print("documents    begin with id {}, end with id {}\n", special_id(index.bos),
             special_id(index.eos));
  Json result = {{"kind", "corpus"},
                 {"folder", corpus.folder()},
                 {"tokenizer_digest", index.tokenizer_digest},
                 {"vocabulary", index.vocabulary},
                 {"bos", index.bos},
                 {"eos", index.eos}};
  result["train"] = print_part("train", corpus.folder(), index.train, tokenizer.get());
  result["validation"] =
      print_part("validation", corpus.folder(), index.validation, tokenizer.get());
  return result;
}

Json inspect_shard(const std::string& path) {
  ShardReader shard(path);
  shard.verify();
  LengthHistogram histogram;
  for (int64_t i = 0; i < shard.documents(); ++i) histogram.add(shard.document_length(i));
  fmt::print("shard        {}\n", path);
  fmt::print("content      {} documents, {} tokens, vocabulary {}; all block digests verified\n",
             count_text(shard.documents()), count_text(shard.tokens()), shard.vocabulary());
  Json result = {{"kind", "shard"},
                 {"file", path},
                 {"documents", shard.documents()},
                 {"tokens", shard.tokens()},
                 {"vocabulary", shard.vocabulary()},
                 {"tokenizer_digest", shard.tokenizer_digest()}};
  result["lengths"] = print_histogram(histogram);
  if (shard.tokenizer_digest() == kBytesTokenizer) {
    const Tokenizer bytes;
    print_first_words(shard, &bytes, result);
  }
  return result;
}

}  // namespace

Json inspect_corpus(const std::string& path) {
  return fs::is_regular_file(path) ? inspect_shard(path) : inspect_folder(path);
}

}  // namespace sidewinder
