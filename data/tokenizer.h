#pragma once
// Text to token ids and back: a SentencePiece model (BPE or unigram), or bytes (id = byte,
// vocabulary 256).

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sidewinder {

class Tokenizer {
 public:
  // Bytes.
  Tokenizer();
  // From the bytes of a SentencePiece model, whose structure is checked; `name` is for messages.
  Tokenizer(std::string model, const std::string& name);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  int64_t vocabulary() const;
  // XXH3-128 of the model file; "bytes" for bytes.
  const std::string& digest() const;
  // The model file; empty for bytes.
  const std::string& model() const;
  bool is_bytes() const;
  std::optional<int32_t> bos() const;
  std::optional<int32_t> eos() const;

  // Ids of the text alone, without BOS or EOS. `text` must be valid UTF-8 (any bytes for "bytes").
  // May be called from several threads.
  std::vector<int32_t> encode(std::string_view text) const;
  // encode() is the ids of these parts one after the other: SentencePiece slows down on long calls,
  // and parts can be encoded by several threads. See CutRule for why the ids are the same.
  std::vector<std::string_view> split(std::string_view text) const;
  void encode_part(std::string_view part, std::vector<int32_t>& ids) const;  // appends

  // What the library answers for the whole text in one call: the same ids (but for rounding in
  // unigram models, see CutRule), more slowly. For tests and benchmarks; "bytes" has none.
  std::vector<int32_t> encode_by_library(std::string_view text) const;

  // The text of the ids; control ids (BOS, EOS) have none. An id outside the vocabulary is
  // Error{user}.
  std::string decode(std::span<const int32_t> ids) const;
  // What one id adds to a text, for printing while generating: raw bytes (perhaps part of a
  // character), ▁ as a space. Joined over ids this is decode(), but for one space in front where
  // the model adds a dummy prefix.
  std::string bytes_of(int32_t id) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

inline constexpr std::string_view kBytesTokenizer = "bytes";

// "bytes", or the path of a SentencePiece model. A damaged or unsuitable file is
// Error{environment}: it is tried in a child process first, since the library may crash on it. If
// `expected_digest` is given, another file is refused, and one with that digest is not tried.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name_or_path,
                                          const std::string& expected_digest = {});

// 256 bytes, 3 control pieces and some characters; what can be trained in sensible time.
inline constexpr int64_t kLeastVocabulary = 300;
inline constexpr int64_t kMostVocabulary = 1'000'000;

enum class TokenizerKind : uint8_t { unigram, bpe };

struct TokenizerTraining {
  TokenizerKind kind = TokenizerKind::bpe;
  int64_t vocabulary = 8192;
};

// Trains a SentencePiece model on text samples (each at most kLongestSample bytes) and returns the
// bytes of the model file. Identity normalisation, no text is lost: byte fallback, all spaces kept;
// digits are single pieces, spaces and line breaks may form pieces among themselves. Ids 0 to 2 are
// <unk>, <s>, </s>. The same samples give the same bytes, whatever the number of cores.
inline constexpr size_t kLongestSample = 4096;
std::string train_tokenizer(const std::vector<std::string>& samples,
                            const TokenizerTraining& options);

}  // namespace sidewinder
