#include "data/shard.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/base/check.h"
#include "kernels/base/digest.h"
#include "kernels/base/hdf5_file.h"

namespace sidewinder {
namespace {

constexpr const char* kFormat = "sidewinder-tokens";
constexpr uint64_t kVersion = 1;

[[noreturn]] void damaged(const std::string& path, const std::string& reason) {
  fail_environment("{}: {}; make the shard again with `sidewinder tokenize` or copy it again", path,
                   reason);
}

// XXH3-128 of all bytes of the file outside [begin, begin + bytes).
std::string frame_digest(const RandomAccessFile& file, uint64_t begin, uint64_t bytes) {
  Digest digest;
  std::vector<unsigned char> buffer(size_t{1} << 20);
  for (const auto& [first, last] :
       std::array<std::pair<uint64_t, uint64_t>, 2>{{{0, begin}, {begin + bytes, file.size()}}}) {
    for (uint64_t at = first; at < last; at += buffer.size()) {
      const size_t count = std::min<uint64_t>(buffer.size(), last - at);
      file.read(at, buffer.data(), count);
      digest.update(buffer.data(), count);
    }
  }
  return digest.text();
}

std::vector<uint64_t> block_digests(const void* data, uint64_t bytes) {
  std::vector<uint64_t> digests;
  for (uint64_t at = 0; at < bytes; at += kDigestBlockBytes) {
    digests.push_back(
        digest64(static_cast<const char*>(data) + at, std::min(kDigestBlockBytes, bytes - at)));
  }
  return digests;
}

template <typename Element>
void write_vector(Hdf5Writer& writer, const std::string& name, Hdf5Type type,
                  const std::vector<Element>& values) {
  SIDEWINDER_ASSERT(size_of(type) == sizeof(Element));
  const std::array<uint64_t, 1> shape = {values.size()};
  writer.write(name, type, shape, values.data());
}

}  // namespace

ShardWriter::ShardWriter(int64_t vocabulary, std::string tokenizer_digest)
    : vocabulary_(vocabulary), tokenizer_digest_(std::move(tokenizer_digest)), doc_offsets_{0} {}

void ShardWriter::add(std::span<const int32_t> tokens, std::string_view text) {
  for (const int32_t id : tokens) {
    SIDEWINDER_ASSERT(id >= 0 && id < vocabulary_);
    tokens_.push_back(static_cast<uint32_t>(id));
  }
  doc_offsets_.push_back(tokens_.size());
  doc_bytes_.push_back(text.size());
  const Digest128 digest = digest128(text);
  text_digests_.append(reinterpret_cast<const char*>(&digest), sizeof digest);
}

ShardRecord ShardWriter::write(const std::string& folder, const std::string& file) {
  ShardRecord record;
  record.file = file;
  record.documents = documents();
  record.tokens = tokens();
  for (size_t i = 0; i < doc_bytes_.size(); ++i) {
    record.text_bytes += static_cast<int64_t>(doc_bytes_[i]);
    record.longest_document = std::max(record.longest_document,
                                       static_cast<int64_t>(doc_offsets_[i + 1] - doc_offsets_[i]));
  }
  record.text_digest = digest_of(text_digests_);

  const bool narrow = vocabulary_ <= 65536;
  std::vector<uint16_t> narrow_tokens;
  if (narrow) narrow_tokens.assign(tokens_.begin(), tokens_.end());
  const void* data = narrow ? static_cast<const void*>(narrow_tokens.data()) : tokens_.data();
  record.tokens_bytes = tokens_.size() * (narrow ? 2 : 4);
  const std::vector<uint64_t> digests = block_digests(data, record.tokens_bytes);

  const std::string path = folder + "/" + file;
  const std::string temporary = path + ".tmp";
  ::unlink(temporary.c_str());  // left by an interrupted run
  try {
    Hdf5Writer writer(temporary);
    writer.attribute("format", kFormat);
    writer.attribute("version", kVersion);
    writer.attribute("creator", "sidewinder tokenize");
    writer.attribute("tokenizer_digest", tokenizer_digest_);
    writer.attribute("vocabulary", static_cast<uint64_t>(vocabulary_));
    writer.attribute("documents", static_cast<uint64_t>(record.documents));
    writer.attribute("tokens", static_cast<uint64_t>(record.tokens));
    const std::array<uint64_t, 1> shape = {tokens_.size()};
    writer.write("tokens", narrow ? Hdf5Type::u16 : Hdf5Type::u32, shape, data);
    write_vector(writer, "doc_offsets", Hdf5Type::u64, doc_offsets_);
    write_vector(writer, "doc_bytes", Hdf5Type::u64, doc_bytes_);
    write_vector(writer, "digest", Hdf5Type::u64, digests);
    writer.close();
    flush_file(temporary);

    record.tokens_offset = Hdf5Reader(temporary).dataset("tokens").file_offset;
    const RandomAccessFile written(temporary);
    record.file_bytes = written.size();
    record.frame_digest = frame_digest(written, record.tokens_offset, record.tokens_bytes);
    ShardReader check(temporary);
    check.verify();
    if (check.tokens() != record.tokens || check.documents() != record.documents ||
        check.document_offsets() != doc_offsets_) {
      fail_environment(
          "{}: reading it back gives other content than was written; the disk is not "
          "reliable",
          temporary);
    }
    publish_file(temporary, path);
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
  *this = ShardWriter(vocabulary_, tokenizer_digest_);
  return record;
}

ShardReader::ShardReader(const std::string& folder, const ShardRecord& record)
    : path_(folder + "/" + record.file), file_(path_) {
  if (file_.size() != record.file_bytes) {
    damaged(path_, fmt::format("has {} bytes but the corpus index says {}; it was truncated or "
                               "replaced",
                               file_.size(), record.file_bytes));
  }
  if (record.tokens_offset > file_.size() ||
      record.tokens_bytes > file_.size() - record.tokens_offset ||
      frame_digest(file_, record.tokens_offset, record.tokens_bytes) != record.frame_digest) {
    damaged(path_,
            "its metadata is damaged or it belongs to another corpus (digest differs from "
            "the corpus index)");
  }
  open();
  if (tokens() != record.tokens || documents() != record.documents ||
      tokens_offset_ != record.tokens_offset) {
    damaged(path_, "it does not hold what the corpus index says");
  }
}

ShardReader::ShardReader(const std::string& path) : path_(path), file_(path) { open(); }

void ShardReader::open() {
  constexpr std::array<unsigned char, 8> kSignature = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
  std::array<unsigned char, 8> start = {};
  if (file_.size() >= start.size()) file_.read(0, start.data(), start.size());
  if (start != kSignature) damaged(path_, "is not an HDF5 file, so not a token shard");

  const Hdf5Reader reader(path_);
  if (!reader.has_attribute("format") || reader.text_attribute("format") != kFormat) {
    damaged(path_, fmt::format("is an HDF5 file but not a token shard (its attribute `format` is "
                               "not \"{}\")",
                               kFormat));
  }
  if (const uint64_t version = reader.number_attribute("version"); version != kVersion) {
    fail_environment("{}: is a token shard of version {}; this program reads version {}", path_,
                     version, kVersion);
  }
  for (const char* name : {"tokens", "doc_offsets", "doc_bytes", "digest"}) {
    if (!reader.has(name)) damaged(path_, fmt::format("dataset /{} is missing", name));
  }
  vocabulary_ = static_cast<int64_t>(reader.number_attribute("vocabulary"));
  tokenizer_digest_ = reader.text_attribute("tokenizer_digest");

  const Hdf5Dataset tokens_set = reader.dataset("tokens");
  if (tokens_set.type != Hdf5Type::u16 && tokens_set.type != Hdf5Type::u32) {
    damaged(path_, "dataset /tokens is neither u16 nor u32");
  }
  token_bytes_ = size_of(tokens_set.type);
  tokens_offset_ = tokens_set.file_offset;
  const auto read_u64 = [&](const std::string& name) {
    const Hdf5Dataset set = reader.dataset(name);
    if (set.type != Hdf5Type::u64 || set.shape.size() != 1) {
      damaged(path_, fmt::format("dataset /{} is not a list of u64", name));
    }
    if (set.bytes > file_.size()) damaged(path_, fmt::format("dataset /{} is too large", name));
    std::vector<uint64_t> values(set.shape[0]);
    reader.read(name, values.data(), values.size() * sizeof(uint64_t));
    return values;
  };
  doc_offsets_ = read_u64("doc_offsets");
  doc_bytes_ = read_u64("doc_bytes");
  digests_ = read_u64("digest");

  const uint64_t count = tokens_set.shape.size() == 1 ? tokens_set.shape[0] : 0;
  const uint64_t bytes = count * token_bytes_;
  if (tokens_set.shape.size() != 1 || tokens_set.bytes != bytes || tokens_offset_ > file_.size() ||
      bytes > file_.size() - tokens_offset_) {
    damaged(path_, "dataset /tokens does not lie inside the file");
  }
  if (doc_offsets_.size() != doc_bytes_.size() + 1 || doc_offsets_.front() != 0 ||
      doc_offsets_.back() != count || !std::is_sorted(doc_offsets_.begin(), doc_offsets_.end()) ||
      reader.number_attribute("documents") != doc_bytes_.size() ||
      reader.number_attribute("tokens") != count) {
    damaged(path_, "its document table does not fit its tokens");
  }
  if (digests_.size() != (bytes + kDigestBlockBytes - 1) / kDigestBlockBytes) {
    damaged(path_, "its digest table does not fit its tokens");
  }
  if (vocabulary_ < 1 || vocabulary_ > (int64_t{1} << 31)) {
    damaged(path_, "its vocabulary is out of range");
  }
  verified_.assign(digests_.size(), false);
}

void ShardReader::verify_block(uint64_t block) {
  const uint64_t begin = block * kDigestBlockBytes;
  const uint64_t total = static_cast<uint64_t>(tokens()) * token_bytes_;
  buffer_.resize(std::min(kDigestBlockBytes, total - begin));
  file_.read(tokens_offset_ + begin, buffer_.data(), buffer_.size());
  if (digest64(buffer_.data(), buffer_.size()) != digests_[block]) {
    damaged(path_,
            fmt::format("tokens {} to {} are damaged (digest of block {} differs)",
                        begin / token_bytes_, (begin + buffer_.size()) / token_bytes_ - 1, block));
  }
  verified_[block] = true;
}

void ShardReader::verify() {
  for (uint64_t block = 0; block < digests_.size(); ++block) verify_block(block);
}

template <typename Element>
void ShardReader::check_ids(std::span<const Element> ids) const {
  // Without a branch, so that the compiler makes vector instructions of it.
  const auto last = static_cast<Element>(std::min<uint64_t>(static_cast<uint64_t>(vocabulary_) - 1,
                                                            std::numeric_limits<Element>::max()));
  Element beyond = 0;
  for (const Element id : ids) beyond |= static_cast<Element>(id > last ? 1 : 0);
  if (beyond == 0) return;
  damaged(path_, fmt::format("holds token id {} but its vocabulary is {}",
                             *std::max_element(ids.begin(), ids.end()), vocabulary_));
}

void ShardReader::read(int64_t document, int64_t first, std::span<int32_t> out) {
  SIDEWINDER_ASSERT(document >= 0 && document < documents() && first >= 0 &&
                    first + static_cast<int64_t>(out.size()) <= document_length(document));
  if (out.empty()) return;
  const uint64_t begin =
      (doc_offsets_[static_cast<size_t>(document)] + static_cast<uint64_t>(first)) * token_bytes_;
  const uint64_t bytes = out.size() * token_bytes_;
  for (uint64_t block = begin / kDigestBlockBytes; block <= (begin + bytes - 1) / kDigestBlockBytes;
       ++block) {
    if (!verified_[block]) verify_block(block);
  }
  if (token_bytes_ == 4) {
    file_.read(tokens_offset_ + begin, out.data(), bytes);
    check_ids(std::span(reinterpret_cast<const uint32_t*>(out.data()), out.size()));
    return;
  }
  narrow_.resize(out.size());
  file_.read(tokens_offset_ + begin, narrow_.data(), bytes);
  for (size_t i = 0; i < out.size(); ++i) out[i] = narrow_[i];
  check_ids(std::span<const uint16_t>(narrow_));
}

}  // namespace sidewinder
