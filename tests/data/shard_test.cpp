#include "data/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/files.h"
#include "kernels/base/digest.h"
#include "kernels/base/error.h"
#include "kernels/base/hdf5_file.h"
#include "kernels/base/philox.h"
#include "tests/support/message_of.h"
#include "tests/support/small_corpus.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::Documents;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

std::string error_of(const std::function<void()>& action) {
  return testing::message_of(action, ExitCode::environment);
}

std::vector<int32_t> document_of(ShardReader& shard, int64_t document) {
  std::vector<int32_t> tokens(static_cast<size_t>(shard.document_length(document)));
  shard.read(document, 0, tokens);
  return tokens;
}

// Reads every document of a corpus.
Documents read_all(const std::string& folder) {
  Corpus corpus(folder);
  Documents documents;
  for (int64_t i = 0; i < corpus.documents(); ++i) {
    documents.emplace_back(static_cast<size_t>(corpus.document_length(i)));
    corpus.read(i, 0, documents.back());
  }
  return documents;
}

TEST(Shard, GivesBackItsDocuments) {
  for (const int64_t vocabulary : {256, 65536, 65537}) {
    const TemporaryFolder folder;
    const Documents documents =
        testing::random_documents({0, 1, 300'000, 7, 0, 65536, 100}, vocabulary, 3);
    ShardWriter writer(vocabulary, "bytes");
    for (const auto& document : documents) writer.add(document, "text");
    const ShardRecord record = writer.write(folder.path(), "shard.h5");
    EXPECT_EQ(record.documents, 7);
    EXPECT_EQ(record.tokens, 365'644);
    EXPECT_EQ(record.text_bytes, 28);
    EXPECT_EQ(record.longest_document, 300'000);
    EXPECT_EQ(record.tokens_bytes, 365'644U * (vocabulary <= 65536 ? 2 : 4));
    EXPECT_EQ(writer.documents(), 0);
    ShardReader shard(folder.path(), record);
    EXPECT_EQ(shard.vocabulary(), vocabulary);
    for (size_t i = 0; i < documents.size(); ++i) {
      EXPECT_EQ(document_of(shard, static_cast<int64_t>(i)), documents[i]);
      EXPECT_EQ(shard.document_bytes(static_cast<int64_t>(i)), 4);
    }
    std::vector<int32_t> window(5);
    shard.read(2, 1000, window);
    EXPECT_TRUE(std::equal(window.begin(), window.end(), documents[2].begin() + 1000));
    EXPECT_FALSE(std::filesystem::exists(folder / "shard.h5.tmp"));
  }
}

TEST(Shard, HasTheDocumentedLayout) {
  const TemporaryFolder folder;
  ShardWriter writer(1000, "abc");
  writer.add(std::vector<int32_t>{1, 2, 3}, "häh");
  writer.add(std::vector<int32_t>{999}, "x");
  const ShardRecord record = writer.write(folder.path(), "shard.h5");
  const Hdf5Reader reader(folder / "shard.h5");
  EXPECT_EQ(reader.text_attribute("format"), "sidewinder-tokens");
  EXPECT_EQ(reader.number_attribute("version"), 1U);
  EXPECT_EQ(reader.text_attribute("tokenizer_digest"), "abc");
  EXPECT_EQ(reader.number_attribute("vocabulary"), 1000U);
  EXPECT_EQ(reader.number_attribute("documents"), 2U);
  EXPECT_EQ(reader.number_attribute("tokens"), 4U);
  const Hdf5Dataset tokens = reader.dataset("tokens");
  EXPECT_EQ(tokens.type, Hdf5Type::u16);
  EXPECT_EQ(tokens.file_offset % 4096, 0U);
  EXPECT_EQ(tokens.file_offset, record.tokens_offset);
  // Little endian, as it lies in the file.
  EXPECT_EQ(read_file(folder / "shard.h5").substr(tokens.file_offset, 8),
            std::string("\x01\0\x02\0\x03\0\xe7\x03", 8));
  std::array<uint64_t, 3> offsets = {};
  reader.read("doc_offsets", offsets.data(), sizeof offsets);
  EXPECT_EQ(offsets, (std::array<uint64_t, 3>{0, 3, 4}));
  std::array<uint64_t, 2> bytes = {};
  reader.read("doc_bytes", bytes.data(), sizeof bytes);
  EXPECT_EQ(bytes, (std::array<uint64_t, 2>{4, 1}));
  uint64_t digest = 0;
  reader.read("digest", &digest, sizeof digest);
  EXPECT_EQ(digest, digest64(std::string_view("\x01\0\x02\0\x03\0\xe7\x03", 8)));
}

TEST(Shard, SameContentGivesTheSameBytes) {
  const TemporaryFolder folder;
  const Documents documents = testing::random_documents({5, 70'000, 3}, 256, 1);
  for (const char* name : {"a.h5", "b.h5"}) {
    ShardWriter writer(256, "bytes");
    for (const auto& document : documents) writer.add(document, "text");
    writer.write(folder.path(), name);
  }
  EXPECT_EQ(read_file(folder / "a.h5"), read_file(folder / "b.h5"));
}

class DamagedCorpus : public ::testing::Test {
 protected:
  DamagedCorpus() : documents_(testing::random_documents({300'000, 50, 200'000}, 256, 5)) {
    testing::write_corpus(folder_.path(), documents_, 256);
    good_ = read_file(path_);
    index_ = read_file(folder_ / kIndexFile);
    record_ = index_from_json(index_, "index").train.at(0);
  }
  // std::ofstream style overwrite without durability.
  void put(const std::string& content) { write_file(path_, content); }
  std::string error() {
    return error_of([&] { read_all(folder_.path()); });
  }

  TemporaryFolder folder_;
  Documents documents_;
  std::string path_ = folder_ / "train/shard-00000.h5";
  std::string good_;
  std::string index_;
  ShardRecord record_;
};

TEST_F(DamagedCorpus, IsReadWhenSound) {
  EXPECT_EQ(read_all(folder_.path()), documents_);
  EXPECT_EQ(read_all(folder_ / "train"), documents_);
  EXPECT_EQ(read_all(folder_ / "train/"), documents_);
}

TEST_F(DamagedCorpus, FlippedTokensAreFoundWhenTheirBlockIsRead) {
  std::string bad = good_;
  bad[record_.tokens_offset + 3 * kDigestBlockBytes + 77] ^= 4;
  put(bad);
  Corpus corpus(folder_.path());  // opens: tokens are checked when they are touched
  std::vector<int32_t> window(100);
  corpus.read(0, 0, window);
  EXPECT_TRUE(std::equal(window.begin(), window.end(), documents_[0].begin()));
  EXPECT_THAT(error_of([&] { corpus.read(0, 3 * 65536 + 10, window); }),
              HasSubstr("tokens 196608 to 262143 are damaged (digest of block 3 differs)"));
  EXPECT_THAT(error(), HasSubstr(path_));
}

TEST_F(DamagedCorpus, EveryFlippedByteIsFound) {
  const Philox philox(1, "flips");
  for (uint64_t trial = 0; trial < 300; ++trial) {
    std::string bad = good_;
    // Half of them in the metadata, which is small.
    uint64_t at = philox.bits(trial) % bad.size();
    if (trial % 2 == 0) {
      const uint64_t outside = bad.size() - record_.tokens_bytes;
      at = philox.bits(trial) % outside;
      if (at >= record_.tokens_offset) at += record_.tokens_bytes;
    }
    bad[at] = static_cast<char>(bad[at] ^ (1 << trial % 8));
    put(bad);
    EXPECT_THAT(error(), HasSubstr("damaged")) << "byte " << at;
  }
}

TEST_F(DamagedCorpus, ZeroedPagesAndTruncationAreFound) {
  for (size_t page = 0; page + 4096 <= good_.size(); page += 4096 * 7) {
    std::string bad = good_;
    std::fill_n(bad.begin() + static_cast<std::ptrdiff_t>(page), 4096, '\0');
    if (bad == good_) continue;
    put(bad);
    EXPECT_THAT(error(), HasSubstr("damaged"));
  }
  for (const size_t size :
       {size_t{0}, size_t{7}, size_t{4096}, good_.size() / 2, good_.size() - 1}) {
    put(good_.substr(0, size));
    EXPECT_THAT(error(), HasSubstr("it was truncated or replaced"));
  }
  put(good_ + "x");
  EXPECT_THAT(error(), HasSubstr("it was truncated or replaced"));
}

TEST_F(DamagedCorpus, TruncationAfterOpeningIsAnError) {
  Corpus corpus(folder_.path());
  std::filesystem::resize_file(path_, record_.tokens_offset + 1000);
  std::vector<int32_t> window(100);
  EXPECT_THAT(error_of([&] { corpus.read(0, 0, window); }), HasSubstr("truncated"));
}

TEST_F(DamagedCorpus, MissingAndForeignFilesAreNamed) {
  std::filesystem::remove(path_);
  EXPECT_THAT(error(), HasSubstr(path_ + ": cannot open the file"));
  std::filesystem::create_directory(path_);
  EXPECT_THAT(error(), HasSubstr("not a regular file"));
  std::filesystem::remove(path_);
  std::filesystem::remove(folder_ / kIndexFile);
  EXPECT_THAT(error(), HasSubstr("not a finished corpus"));
  write_file(folder_ / kIndexFile, "{\"hello\": 1}");
  EXPECT_THAT(error(), HasSubstr("is not the index of a corpus"));
  write_file(folder_ / kIndexFile, "nonsense");
  EXPECT_THAT(error(), HasSubstr("is not the index of a corpus"));
  std::string edited = index_;
  edited.replace(edited.find("\"tokens\": 500050"), 16, "\"tokens\": 500051");
  write_file(folder_ / kIndexFile, edited);
  EXPECT_THAT(error(), HasSubstr("does not fit its digest"));
  EXPECT_THAT(error_of([&] { read_all(folder_ / "none"); }), HasSubstr("no such folder"));
  write_file(folder_ / kIndexFile, index_);
  EXPECT_THAT(error_of([&] { Corpus(folder_ / "validation"); }), HasSubstr("no such folder"));
}

// Files by themselves, without an index.
TEST_F(DamagedCorpus, AFileAloneIsCheckedAsFarAsItCanBe) {
  ShardReader shard(path_);
  EXPECT_EQ(document_of(shard, 1), documents_[1]);
  write_file(folder_ / "text.h5", "no HDF5 at all");
  EXPECT_THAT(error_of([&] { ShardReader(folder_ / "text.h5"); }),
              HasSubstr("is not an HDF5 file"));
  put(good_.substr(0, good_.size() - 1000));
  EXPECT_THAT(error_of([&] { ShardReader reader(path_); }), HasSubstr(path_));
}

// Writes a shard by hand, leaving out or changing one thing.
struct Foreign {
  std::string format = "sidewinder-tokens";
  uint64_t version = 1;
  std::vector<uint16_t> tokens = {1, 2, 3, 4};
  std::vector<uint64_t> offsets = {0, 3, 4};
  std::vector<uint64_t> bytes = {3, 1};
  std::string missing = "";
  uint64_t vocabulary = 10;
  bool wrong_digest = false;
  Hdf5Type offsets_type = Hdf5Type::u64;
};

std::string error_of(const Foreign& foreign) {
  const TemporaryFolder folder;
  Hdf5Writer writer(folder / "x.h5");
  writer.attribute("format", foreign.format);
  writer.attribute("version", foreign.version);
  writer.attribute("tokenizer_digest", "bytes");
  writer.attribute("vocabulary", foreign.vocabulary);
  writer.attribute("documents", uint64_t{2});
  writer.attribute("tokens", uint64_t{4});
  const auto write = [&](const std::string& name, Hdf5Type type, const auto& values) {
    if (name == foreign.missing) return;
    const std::array<uint64_t, 1> shape = {values.size()};
    writer.write(name, type, shape, values.data());
  };
  write("tokens", Hdf5Type::u16, foreign.tokens);
  write("doc_offsets", foreign.offsets_type, foreign.offsets);
  write("doc_bytes", Hdf5Type::u64, foreign.bytes);
  const uint64_t digest = digest64(foreign.tokens.data(), foreign.tokens.size() * 2);
  write("digest", Hdf5Type::u64, std::vector<uint64_t>{digest + (foreign.wrong_digest ? 1 : 0)});
  writer.close();
  return error_of([&] {
    ShardReader shard(folder / "x.h5");
    document_of(shard, 0);
    document_of(shard, 1);
  });
}

TEST(Shard, RefusesForeignFiles) {
  EXPECT_THAT(error_of(Foreign{.format = "other"}), HasSubstr("not a token shard"));
  EXPECT_THAT(error_of(Foreign{.version = 9}), HasSubstr("version 9"));
  for (const char* name : {"tokens", "doc_offsets", "doc_bytes", "digest"}) {
    EXPECT_THAT(error_of(Foreign{.missing = name}),
                HasSubstr(std::string("dataset /") + name + " is missing"));
  }
  EXPECT_THAT(error_of(Foreign{.offsets = {0, 3, 5}}), HasSubstr("document table does not fit"));
  EXPECT_THAT(error_of(Foreign{.offsets = {0, 5, 4}}), HasSubstr("document table does not fit"));
  EXPECT_THAT(error_of(Foreign{.offsets = {1, 3, 4}}), HasSubstr("document table does not fit"));
  EXPECT_THAT(error_of(Foreign{.offsets = {0, 4}}), HasSubstr("document table does not fit"));
  EXPECT_THAT(error_of(Foreign{.bytes = {3}}), HasSubstr("document table does not fit"));
  EXPECT_THAT(error_of(Foreign{.tokens = {}}), HasSubstr("document table does not fit"));
  EXPECT_THAT(error_of(Foreign{.offsets_type = Hdf5Type::f64}), HasSubstr("not a list of u64"));
  EXPECT_THAT(error_of(Foreign{.wrong_digest = true}), HasSubstr("tokens 0 to 3 are damaged"));
  EXPECT_THAT(error_of(Foreign{.vocabulary = 3}), HasSubstr("token id 3 but its vocabulary is 3"));
  EXPECT_THAT(error_of(Foreign{.vocabulary = 0}), HasSubstr("vocabulary is out of range"));
}

TEST(Corpus, FindsDocumentsAcrossShards) {
  const TemporaryFolder folder;
  const Documents documents = testing::random_documents(testing::random_lengths(23, 50, 2), 100, 2);
  const Documents held_out = testing::random_documents({4, 5}, 100, 3);
  testing::write_corpus(folder.path(), documents, 100, 5, held_out);
  EXPECT_EQ(read_all(folder.path()), documents);
  EXPECT_EQ(read_all(folder / "validation"), held_out);
  EXPECT_NE(Corpus(folder.path()).digest(), Corpus(folder / "validation").digest());
  EXPECT_EQ(Corpus(folder.path()).tokenizer_file(), "");
}

TEST(Corpus, DigestDependsOnContentNotOnPlace) {
  const TemporaryFolder a;
  const TemporaryFolder b;
  const TemporaryFolder c;
  const Documents documents = testing::random_documents({10, 20}, 100, 2);
  testing::write_corpus(a.path(), documents, 100);
  testing::write_corpus(b.path(), documents, 100);
  testing::write_corpus(c.path(), testing::random_documents({10, 20}, 100, 3), 100);
  EXPECT_EQ(Corpus(a.path()).digest(), Corpus(b.path()).digest());
  EXPECT_NE(Corpus(a.path()).digest(), Corpus(c.path()).digest());
}

}  // namespace
}  // namespace sidewinder
