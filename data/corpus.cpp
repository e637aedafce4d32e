#include "data/corpus.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

#include "data/tokenizer.h"
#include "kernels/base/check.h"
#include "kernels/base/digest.h"

namespace sidewinder {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "sidewinder-corpus";
constexpr int kVersion = 1;

json to_json(const ShardRecord& shard) {
  return {{"file", shard.file},
          {"documents", shard.documents},
          {"tokens", shard.tokens},
          {"text_bytes", shard.text_bytes},
          {"longest_document", shard.longest_document},
          {"file_bytes", shard.file_bytes},
          {"tokens_offset", shard.tokens_offset},
          {"tokens_bytes", shard.tokens_bytes},
          {"frame_digest", shard.frame_digest},
          {"text_digest", shard.text_digest}};
}

ShardRecord shard_from_json(const json& value) {
  ShardRecord shard;
  value.at("file").get_to(shard.file);
  value.at("documents").get_to(shard.documents);
  value.at("tokens").get_to(shard.tokens);
  value.at("text_bytes").get_to(shard.text_bytes);
  value.at("longest_document").get_to(shard.longest_document);
  value.at("file_bytes").get_to(shard.file_bytes);
  value.at("tokens_offset").get_to(shard.tokens_offset);
  value.at("tokens_bytes").get_to(shard.tokens_bytes);
  value.at("frame_digest").get_to(shard.frame_digest);
  value.at("text_digest").get_to(shard.text_digest);
  return shard;
}

json to_json(const std::vector<ShardRecord>& shards) {
  json list = json::array();
  for (const ShardRecord& shard : shards) list.push_back(to_json(shard));
  return list;
}

std::vector<ShardRecord> shards_from_json(const json& list) {
  std::vector<ShardRecord> shards;
  for (const json& value : list) shards.push_back(shard_from_json(value));
  return shards;
}

}  // namespace

std::string to_json(const CorpusIndex& index) {
  json value = {{"format", kFormat},
                {"version", kVersion},
                {"tokenizer_digest", index.tokenizer_digest},
                {"vocabulary", index.vocabulary},
                {"bos", index.bos},
                {"eos", index.eos},
                {"settings", index.settings.empty() ? json::object() : json::parse(index.settings)},
                {"train", to_json(index.train)},
                {"validation", to_json(index.validation)}};
  // Over the compact text of all the rest; nlohmann sorts keys, so that text is unique.
  value["digest"] = digest_of(value.dump());
  return value.dump(1) + "\n";
}

CorpusIndex index_from_json(const std::string& text, const std::string& path) {
  try {
    json value = json::parse(text);
    if (!value.is_object() || value.value("format", "") != kFormat) {
      fail_environment(
          "{}: is not the index of a corpus; give a folder made by `sidewinder tokenize`", path);
    }
    if (value.at("version") != kVersion) {
      fail_environment("{}: is of version {}; this program reads version {}", path,
                       value.at("version").dump(), kVersion);
    }
    const std::string digest = value.at("digest");
    value.erase("digest");
    if (digest_of(value.dump()) != digest) {
      fail_environment(
          "{}: its content does not fit its digest; it was damaged or edited; make the "
          "corpus again or copy it again",
          path);
    }
    CorpusIndex index;
    value.at("tokenizer_digest").get_to(index.tokenizer_digest);
    value.at("vocabulary").get_to(index.vocabulary);
    value.at("bos").get_to(index.bos);
    value.at("eos").get_to(index.eos);
    index.settings = value.at("settings").dump();
    index.train = shards_from_json(value.at("train"));
    index.validation = shards_from_json(value.at("validation"));
    return index;
  } catch (const json::exception& problem) {
    fail_environment("{}: is not the index of a corpus: {}; make the corpus again or copy it again",
                     path, problem.what());
  }
}

Corpus::Corpus(const std::string& folder) {
  namespace fs = std::filesystem;
  fs::path given = fs::path(folder).lexically_normal();
  if (!given.has_filename()) given = given.parent_path();
  // A corpus itself may have such a name.
  const bool is_root = fs::exists(given / kIndexFile);
  const bool is_validation = !is_root && given.filename() == "validation";
  const bool is_part = is_validation || (!is_root && given.filename() == "train");
  fs::path root = given;
  if (is_part) root = given.parent_path();
  if (root.empty()) root = ".";
  if (is_validation && !fs::exists(given) && fs::exists(root / kIndexFile)) {
    fail_environment(
        "{}: no such folder: nothing was held out of this corpus; make it anew of more documents "
        "or with a larger --hold-out of `sidewinder tokenize`, or do without",
        folder);
  }
  if (!fs::exists(given)) {
    fail_environment(
        "{}: no such folder; make the corpus with `sidewinder tokenize` or correct the "
        "path",
        folder);
  }
  if (!fs::exists(root / kIndexFile)) {
    fail_environment(
        "{}: there is no {} in it, so it is not a finished corpus; run `sidewinder "
        "tokenize` (again) to finish it",
        root.string(), kIndexFile);
  }
  folder_ = root.string();
  part_ = is_validation ? "validation" : "train";
  const std::string index_path = (root / kIndexFile).string();
  index_ = index_from_json(read_file(index_path), index_path);
  const std::vector<ShardRecord>& records = is_validation ? index_.validation : index_.train;
  Digest digest;
  digest.update(index_.tokenizer_digest);
  first_document_.push_back(0);
  for (const ShardRecord& record : records) {
    shards_.emplace_back(folder_, record);
    const ShardReader& shard = shards_.back();
    if (shard.tokenizer_digest() != index_.tokenizer_digest ||
        shard.vocabulary() != index_.vocabulary) {
      fail_environment("{}: was made with another tokenizer than {}", shard.path(), index_path);
    }
    first_document_.push_back(first_document_.back() + shard.documents());
    tokens_ += shard.tokens();
    digest.update(record.frame_digest);
  }
  digest_ = digest.text();
  if (documents() == 0) {
    fail_environment("{}: holds no documents{}", folder,
                     is_validation ? "; nothing was held out (see --hold-out of `sidewinder "
                                     "tokenize`)"
                                   : "");
  }
}

std::string Corpus::part_folder() const {
  return (std::filesystem::path(folder_) / part_).lexically_normal().string();
}

std::string Corpus::tokenizer_file() const {
  return index_.tokenizer_digest == kBytesTokenizer ? "" : folder_ + "/" + kTokenizerFile;
}

std::string tokenizer_file(const DataOptions& options) {
  SIDEWINDER_REQUIRE(!options.train.empty(),
                     "there is no training data; name at least one corpus in [[data.train]]");
  return Corpus(options.train.front().folder).tokenizer_file();
}

size_t Corpus::shard_of(int64_t document) const {
  SIDEWINDER_ASSERT(document >= 0 && document < documents());
  const auto after = std::upper_bound(first_document_.begin(), first_document_.end(), document);
  return static_cast<size_t>(after - first_document_.begin()) - 1;
}

int64_t Corpus::document_length(int64_t document) const {
  const size_t shard = shard_of(document);
  return shards_[shard].document_length(document - first_document_[shard]);
}

int64_t Corpus::document_bytes(int64_t document) const {
  const size_t shard = shard_of(document);
  return shards_[shard].document_bytes(document - first_document_[shard]);
}

void Corpus::read(int64_t document, int64_t first, std::span<int32_t> out) {
  const size_t shard = shard_of(document);
  shards_[shard].read(document - first_document_[shard], first, out);
}

}  // namespace sidewinder
