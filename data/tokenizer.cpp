#include "data/tokenizer.h"

#include <fcntl.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <regex>
#include <utility>

#include "data/files.h"
#include "data/segment_cache.h"
#include "data/sentencepiece_model.h"
#include "kernels/base/check.h"
#include "kernels/base/digest.h"

namespace sidewinder {
namespace {

// Parts of this size are encoded fastest, and path scores of unigram models stay small.
constexpr size_t kPartBytes = 2048;
constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";

// Runs `body` in a child process, so that a crash or hang of the library in it cannot hurt this
// one. True if it returned true within the time limit.
template <typename Body>
bool try_in_child(Body&& body) {
  const pid_t child = ::fork();
  if (child < 0) {
    fail_environment("cannot start a process to try the tokenizer model: {}", std::strerror(errno));
  }
  if (child == 0) {
    const rlimit no_core = {0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    ::alarm(60);
    const int nowhere = ::open("/dev/null", O_WRONLY);
    if (nowhere >= 0) {
      ::dup2(nowhere, STDOUT_FILENO);
      ::dup2(nowhere, STDERR_FILENO);
    }
    bool good = false;
    try {
      good = body();
    } catch (...) {
      good = false;
    }
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return false;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Text that visits every piece and many rules: loading a damaged model often succeeds, using it
// not.
bool survives_use(const std::string& model) {
  sentencepiece::SentencePieceProcessor processor;
  if (!processor.LoadFromSerializedProto(model).ok()) return false;
  std::vector<int> ids;
  std::string text;
  const auto use = [&](const std::string& sample) {
    return processor.Encode(sample, &ids).ok() && processor.Decode(ids, &text).ok();
  };
  std::string sample =
      "The quick brown fox, 12345 times.\n\tÄäß ﬁ ½ ﷺ 日本語 👍🏽 e\u0301 \u00a0 x";
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    sample += processor.IdToPiece(id);
    if (sample.size() > 2000 || id + 1 == processor.GetPieceSize()) {
      if (!use(sample)) return false;
      sample.clear();
    }
  }
  for (uint32_t code = 1; code < 0x3000; code += 1) {
    if (code < 0x80) {
      sample += static_cast<char>(code);
    } else if (code < 0x800) {
      sample += static_cast<char>(0xc0 | code >> 6);
      sample += static_cast<char>(0x80 | (code & 63));
    } else {
      sample += static_cast<char>(0xe0 | code >> 12);
      sample += static_cast<char>(0x80 | (code >> 6 & 63));
      sample += static_cast<char>(0x80 | (code & 63));
    }
    if (sample.size() > 2000 && !use(std::exchange(sample, {}))) return false;
  }
  return use(sample);
}

std::optional<int32_t> known_id(int id) {
  return id >= 0 ? std::optional<int32_t>(id) : std::nullopt;
}

}  // namespace

struct Tokenizer::State {
  std::string model;
  std::string digest{kBytesTokenizer};
  int64_t vocabulary = 256;
  // The rest is for SentencePiece only.
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor;
  std::vector<Piece> pieces;
  CutRule cuts;
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
  // Unigram models are not cached: the library's sums in 32 bits may tip nearly equal paths, and
  // differently for a word alone than for one in a text. BPE compares the exact scores of merges.
  bool caches = false;

  // Caches that no thread uses now.
  std::mutex mutex;
  std::vector<std::unique_ptr<SegmentCache>> idle;

  std::unique_ptr<SegmentCache> take_cache() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (idle.empty()) return std::make_unique<SegmentCache>();
    std::unique_ptr<SegmentCache> cache = std::move(idle.back());
    idle.pop_back();
    return cache;
  }

  void give_back(std::unique_ptr<SegmentCache> cache) {
    const std::lock_guard<std::mutex> lock(mutex);
    idle.push_back(std::move(cache));
  }

  std::vector<int> encode(std::string_view text) const {
    std::vector<int> ids;
    const auto status = processor->Encode(text, &ids);
    SIDEWINDER_REQUIRE(status.ok(), "the tokenizer cannot encode a text of {} bytes: {}",
                       text.size(), status.ToString());
    return ids;
  }

  // CutRule allows to encode the words of a text one by one, and so to remember them. Words that
  // are new are encoded together, since every call has its cost.
  void encode_words(std::string_view text, std::vector<int32_t>& ids) {
    std::unique_ptr<SegmentCache> cache = take_cache();
    std::string_view fresh;
    const auto append = [&ids](const auto& found) {
      ids.insert(ids.end(), found.begin(), found.end());
    };
    const auto append_fresh = [&] {
      if (!fresh.empty()) append(encode(std::exchange(fresh, {})));
    };
    while (!text.empty()) {
      const std::string_view word = cuts.take(text, 1);
      const bool is_short = word.size() <= SegmentCache::kLongestSegment;
      if (const auto known = is_short ? cache->find(word) : std::nullopt) {
        append_fresh();
        append(*known);
      } else if (is_short && cache->seen_before(word)) {
        append_fresh();
        const std::vector<int> found = encode(word);
        cache->add(word, found);
        append(found);
      } else {
        const char* const begin = fresh.empty() ? word.data() : fresh.data();
        fresh = {begin, static_cast<size_t>(word.data() + word.size() - begin)};
      }
    }
    append_fresh();
    give_back(std::move(cache));
  }

  void check_id(int32_t id) const {
    SIDEWINDER_REQUIRE(id >= 0 && id < vocabulary,
                       "token id {} is outside the tokenizer's vocabulary of {}; the ids were made "
                       "with another tokenizer",
                       id, vocabulary);
  }
};

Tokenizer::Tokenizer() : state_(std::make_unique<State>()) {}

Tokenizer::Tokenizer(std::string model, const std::string& name)
    : state_(std::make_unique<State>()) {
  SentencePieceModel parsed = parse_sentencepiece(model, name);
  state_->processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const auto status = state_->processor->LoadFromSerializedProto(model);
  if (!status.ok()) {
    fail_environment("{}: not a usable SentencePiece model: {}", name, status.ToString());
  }
  state_->vocabulary = state_->processor->GetPieceSize();
  state_->digest = digest_of(model);
  state_->bos = known_id(state_->processor->bos_id());
  state_->eos = known_id(state_->processor->eos_id());
  state_->cuts = CutRule(parsed);
  state_->caches = state_->cuts.possible() && parsed.kind == SentencePieceModel::Kind::bpe;
  state_->pieces = std::move(parsed.pieces);
  state_->model = std::move(model);
}

Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name_or_path,
                                          const std::string& expected_digest) {
  if (name_or_path == kBytesTokenizer) return std::make_unique<Tokenizer>();
  std::string model = read_file(name_or_path);
  if (expected_digest.empty()) {
    parse_sentencepiece(model, name_or_path);
    if (!try_in_child([&] { return survives_use(model); })) {
      fail_environment(
          "{}: the SentencePiece library cannot use this model (it was tried in a separate "
          "process); "
          "the file is damaged or of another format",
          name_or_path);
    }
  } else if (const std::string digest = digest_of(model); digest != expected_digest) {
    fail_environment(
        "{}: its digest is {} but {} was expected; it is damaged or another tokenizer than the one "
        "that made the data",
        name_or_path, digest, expected_digest);
  }
  return std::make_unique<Tokenizer>(std::move(model), name_or_path);
}

int64_t Tokenizer::vocabulary() const { return state_->vocabulary; }
const std::string& Tokenizer::digest() const { return state_->digest; }
const std::string& Tokenizer::model() const { return state_->model; }
bool Tokenizer::is_bytes() const { return state_->processor == nullptr; }
std::optional<int32_t> Tokenizer::bos() const { return state_->bos; }
std::optional<int32_t> Tokenizer::eos() const { return state_->eos; }

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  for (const std::string_view part : split(text)) encode_part(part, ids);
  return ids;
}

std::vector<std::string_view> Tokenizer::split(std::string_view text) const {
  if (!is_bytes()) return state_->cuts.split(text, kPartBytes);
  std::vector<std::string_view> parts;
  for (size_t at = 0; at < text.size(); at += size_t{64} * kPartBytes) {
    parts.push_back(text.substr(at, size_t{64} * kPartBytes));
  }
  return parts;
}

void Tokenizer::encode_part(std::string_view part, std::vector<int32_t>& ids) const {
  if (is_bytes()) {
    for (const char c : part) ids.push_back(static_cast<unsigned char>(c));
    return;
  }
  if (state_->caches) return state_->encode_words(part, ids);
  const std::vector<int> found = state_->encode(part);
  ids.insert(ids.end(), found.begin(), found.end());
}

std::vector<int32_t> Tokenizer::encode_by_library(std::string_view text) const {
  SIDEWINDER_ASSERT(!is_bytes());
  return state_->encode(text);
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids) state_->check_id(id);
  std::string text;
  if (is_bytes()) {
    for (const int32_t id : ids) text.push_back(static_cast<char>(id));
    return text;
  }
  const auto status = state_->processor->Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  SIDEWINDER_REQUIRE(status.ok(), "the tokenizer cannot decode {} ids: {}", ids.size(),
                     status.ToString());
  return text;
}

std::string Tokenizer::bytes_of(int32_t id) const {
  state_->check_id(id);
  if (is_bytes()) return std::string(1, static_cast<char>(id));
  const Piece& piece = state_->pieces[static_cast<size_t>(id)];
  switch (piece.type) {
    case PieceType::control: return {};
    case PieceType::unknown: return " \xe2\x81\x87 ";
    case PieceType::byte:
      return std::string(1, static_cast<char>(std::stoi(piece.text.substr(3, 2), nullptr, 16)));
    default: break;
  }
  std::string text;
  for (std::string_view rest = piece.text; !rest.empty();) {
    const bool space = rest.substr(0, kSpaceSymbol.size()) == kSpaceSymbol;
    text += space ? ' ' : rest[0];
    rest.remove_prefix(space ? kSpaceSymbol.size() : 1);
  }
  return text;
}

namespace {

class SampleIterator : public sentencepiece::SentenceIterator {
 public:
  explicit SampleIterator(const std::vector<std::string>& samples) : samples_(samples) {}
  bool done() const override { return next_ >= samples_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return samples_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& samples_;
  size_t next_ = 0;
};

// What the library says of texts that do not go with the vocabulary, and what to do about it.
[[noreturn]] void fail_to_train(int64_t vocabulary, const std::string& reason) {
  static const std::regex too_large("set it to a value <= ([0-9]+)");
  static const std::regex too_small("smaller than required_chars. [0-9]+ vs ([0-9]+)");
  std::smatch match;
  if (std::regex_search(reason, match, too_large)) {
    const std::string most = match[1];
    fail_user("this text has no more than {} pieces, but a vocabulary of {} was asked for; {}",
              most, vocabulary,
              std::stoll(most) >= kLeastVocabulary
                  ? fmt::format("use --vocabulary {}, or more text", most)
                  : "use more text, or --tokenizer bytes");
  }
  if (std::regex_search(reason, match, too_small)) {
    fail_user(
        "the characters of this text need a vocabulary of {}, but {} was asked for; use "
        "--vocabulary {} or more",
        match[1].str(), vocabulary, match[1].str());
  }
  fail_user("cannot train a tokenizer with a vocabulary of {} on this text: {}", vocabulary,
            reason);
}

}  // namespace

std::string train_tokenizer(const std::vector<std::string>& samples,
                            const TokenizerTraining& options) {
  SIDEWINDER_REQUIRE(!samples.empty(), "there is no text to train a tokenizer on");
  SIDEWINDER_REQUIRE(
      options.vocabulary >= kLeastVocabulary && options.vocabulary <= kMostVocabulary,
      "a tokenizer with a vocabulary of {} cannot be trained; from {} (256 bytes, 3 "
      "control pieces, characters) to {} are possible",
      options.vocabulary, kLeastVocabulary, kMostVocabulary);
  for (const std::string& sample : samples) SIDEWINDER_ASSERT(sample.size() <= kLongestSample);
  SampleIterator iterator(samples);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"model_type", options.kind == TokenizerKind::bpe ? "bpe" : "unigram"},
       {"vocab_size", std::to_string(options.vocabulary)},
       {"byte_fallback", "true"},
       {"normalization_rule_name", "identity"},
       {"remove_extra_whitespaces", "false"},
       {"allow_whitespace_only_pieces", "true"},
       {"split_digits", "true"},
       {"character_coverage", "0.9995"},
       {"max_sentence_length", std::to_string(kLongestSample)},
       // The partial sums of the training belong to threads, so their number is part of the result.
       {"num_threads", "8"},
       {"minloglevel", "2"}},
      &iterator, &model);
  if (!status.ok()) fail_to_train(options.vocabulary, status.ToString());
  return model;
}

}  // namespace sidewinder
