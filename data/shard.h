#pragma once
// A token shard: an immutable HDF5 file with the tokens of many documents, one after the other.
// docs/formats.md gives the layout byte by byte.
//
//   /tokens       u16 or u32 [tokens], contiguous
//   /doc_offsets  u64 [documents + 1]   first token of each document
//   /doc_bytes    u64 [documents]       UTF-8 bytes of the text of each document
//   /digest       u64 [blocks]          XXH3-64 of each 128 KiB of /tokens
//
// Two digests guard it: that of every block, checked when the block is first read, and the frame
// digest, over all bytes of the file outside /tokens, which stands in the corpus index and is
// checked before the HDF5 library parses the file.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.h"

namespace sidewinder {

inline constexpr uint64_t kDigestBlockBytes = uint64_t{128} << 10;

// What the corpus index knows about a shard.
struct ShardRecord {
  std::string file;  // relative to the corpus folder
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
  int64_t longest_document = 0;  // tokens
  uint64_t file_bytes = 0;
  uint64_t tokens_offset = 0;
  uint64_t tokens_bytes = 0;
  std::string frame_digest;  // XXH3-128
  std::string text_digest;   // XXH3-128 over the digests of the documents' texts
  bool operator==(const ShardRecord&) const = default;
};

// Collects documents and writes them as one file.
class ShardWriter {
 public:
  ShardWriter(int64_t vocabulary, std::string tokenizer_digest);

  void add(std::span<const int32_t> tokens, std::string_view text);
  int64_t documents() const { return static_cast<int64_t>(doc_bytes_.size()); }
  int64_t tokens() const { return static_cast<int64_t>(tokens_.size()); }

  // Writes folder/file: temporary name, fsync, verification of what was written, rename. Leaves the
  // writer empty. Error{environment} if anything fails; then no new name is visible.
  ShardRecord write(const std::string& folder, const std::string& file);

 private:
  int64_t vocabulary_;
  std::string tokenizer_digest_;
  std::vector<uint32_t> tokens_;
  std::vector<uint64_t> doc_offsets_;
  std::vector<uint64_t> doc_bytes_;
  std::string text_digests_;
};

// Reads documents of one shard. For one thread at a time.
class ShardReader {
 public:
  // A file of a corpus: `record` as in the index. Error{environment} if the file is missing or is
  // not the one that was written.
  ShardReader(const std::string& folder, const ShardRecord& record);
  // A file by itself: structure and block digests are checked, but not against an index.
  explicit ShardReader(const std::string& path);

  const std::string& path() const { return path_; }
  int64_t documents() const { return static_cast<int64_t>(doc_bytes_.size()); }
  int64_t tokens() const { return static_cast<int64_t>(doc_offsets_.back()); }
  int64_t vocabulary() const { return vocabulary_; }
  const std::string& tokenizer_digest() const { return tokenizer_digest_; }

  int64_t document_length(int64_t document) const {
    const auto i = static_cast<size_t>(document);
    return static_cast<int64_t>(doc_offsets_[i + 1] - doc_offsets_[i]);
  }
  int64_t document_bytes(int64_t document) const {
    return static_cast<int64_t>(doc_bytes_[static_cast<size_t>(document)]);
  }
  // Tokens [first, first + out.size()) of a document. Verifies blocks not read before;
  // Error{environment} naming file and block if one is damaged.
  void read(int64_t document, int64_t first, std::span<int32_t> out);
  // Verifies every block.
  void verify();
  const std::vector<uint64_t>& document_offsets() const { return doc_offsets_; }

 private:
  void open();
  void verify_block(uint64_t block);
  template <typename Element>
  void check_ids(std::span<const Element> ids) const;

  std::string path_;
  RandomAccessFile file_;
  int64_t vocabulary_ = 0;
  std::string tokenizer_digest_;
  uint64_t token_bytes_ = 2;  // bytes of one token in the file
  uint64_t tokens_offset_ = 0;
  std::vector<uint64_t> doc_offsets_;
  std::vector<uint64_t> doc_bytes_;
  std::vector<uint64_t> digests_;
  std::vector<bool> verified_;
  std::vector<unsigned char> buffer_;
  std::vector<uint16_t> narrow_;
};

}  // namespace sidewinder
