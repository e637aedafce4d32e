#include "tests/support/small_corpus.h"

#include <fmt/core.h>

#include <filesystem>

#include "data/files.h"
#include "kernels/base/philox.h"

namespace sidewinder::testing {
namespace {

std::vector<ShardRecord> write_part(const std::string& folder, const std::string& name,
                                    const Documents& documents, int64_t vocabulary,
                                    int64_t documents_per_shard) {
  std::vector<ShardRecord> records;
  if (documents.empty()) return records;
  std::filesystem::create_directories(folder + "/" + name);
  ShardWriter writer(vocabulary, "bytes");
  const auto flush = [&] {
    records.push_back(
        writer.write(folder, fmt::format("{}/shard-{:05d}.h5", name, records.size())));
  };
  for (const std::vector<int32_t>& document : documents) {
    // The text stands for two bytes a token.
    writer.add(document, std::string(document.size() * 2, 'x'));
    if (writer.documents() == documents_per_shard) flush();
  }
  if (writer.documents() > 0) flush();
  return records;
}

}  // namespace

Documents random_documents(const std::vector<int64_t>& lengths, int64_t vocabulary, uint64_t seed) {
  const Philox philox(seed, "test documents");
  Documents documents;
  uint64_t index = 0;
  for (const int64_t length : lengths) {
    std::vector<int32_t>& document = documents.emplace_back();
    for (int64_t i = 0; i < length; ++i) {
      document.push_back(
          static_cast<int32_t>(philox.below(index++, static_cast<uint64_t>(vocabulary))));
    }
  }
  return documents;
}

std::vector<int64_t> random_lengths(int64_t count, int64_t longest, uint64_t seed) {
  const Philox philox(seed, "test lengths");
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < count; ++i) {
    // Many short ones, few long ones.
    const double u = philox.uniform(static_cast<uint64_t>(i));
    lengths.push_back(1 + static_cast<int64_t>(u * u * u * static_cast<double>(longest)));
  }
  return lengths;
}

void write_corpus(const std::string& folder, const Documents& train, int64_t vocabulary,
                  int64_t documents_per_shard, const Documents& validation) {
  CorpusIndex index;
  index.tokenizer_digest = "bytes";
  index.vocabulary = vocabulary;
  index.train = write_part(folder, "train", train, vocabulary, documents_per_shard);
  index.validation = write_part(folder, "validation", validation, vocabulary, documents_per_shard);
  write_file(folder + "/" + kIndexFile, to_json(index));
}

}  // namespace sidewinder::testing
