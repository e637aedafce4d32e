#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sentencepiece_processor.h>

#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "data/files.h"
#include "data/sentencepiece_model.h"
#include "kernels/base/error.h"
#include "kernels/base/philox.h"
#include "tests/support/shared_data.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryFolder;

// English-like text with everything that makes trouble: runs of spaces, line breaks, digits,
// punctuation before spaces, other scripts, combining marks, ▁ itself.
std::string sample_text(int64_t words, uint64_t seed) {
  const std::vector<std::string> parts = {
      "the",    "of",      "and",   "whale", "Ishmael",  "sea,",  "ship.",  "ocean",
      "12",     "3.14159", "(a)",   "—",     "“word”",   "naïve", "日本語", "e\u0301",
      "\u2581", "x_y",     "don't", "A",     "\n",       "\n\n",  "\t",     "  ",
      "   ",    "\r\n",    "ﬁ",     "½",     "👍🏽", "to"};
  const Philox philox(seed, "sample text");
  std::string text;
  for (int64_t i = 0; i < words; ++i) {
    const auto k = static_cast<uint64_t>(i) * 2;
    text += parts[philox.below(k, parts.size())];
    if (philox.below(k + 1, 8) != 0) text += ' ';
  }
  return text;
}

std::vector<std::string> samples_of(const std::string& text) {
  std::vector<std::string> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.size() <= kLongestSample) samples.push_back(line + "\n");
  }
  return samples;
}

std::string small_model(TokenizerKind kind) {
  return train_tokenizer(samples_of(sample_text(30000, 1)), {.kind = kind, .vocabulary = 400});
}

std::vector<int32_t> whole_call(const std::string& model, const std::string& text) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.LoadFromSerializedProto(model).ok());
  std::vector<int> ids;
  EXPECT_TRUE(processor.Encode(text, &ids).ok());
  return {ids.begin(), ids.end()};
}

// The sum of the pieces' log probabilities, which unigram models maximise.
double path_score(const std::string& model, const std::vector<int32_t>& ids) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.LoadFromSerializedProto(model).ok());
  double score = 0;
  for (const int32_t id : ids) score += processor.GetScore(id);
  return score;
}

// Encodes the text cut as often as possible.
std::vector<int32_t> cut_finely(const Tokenizer& tokenizer, const CutRule& rule,
                                std::string_view text) {
  std::vector<int32_t> ids;
  for (const std::string_view part : rule.split(text, 1)) tokenizer.encode_part(part, ids);
  return ids;
}

TEST(Tokenizer, BytesAreTheirOwnIds) {
  const Tokenizer tokenizer;
  EXPECT_EQ(tokenizer.vocabulary(), 256);
  EXPECT_EQ(tokenizer.encode("a\xff"), (std::vector<int32_t>{97, 255}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("Äh")), "Äh");
  EXPECT_FALSE(tokenizer.bos().has_value() || tokenizer.eos().has_value());
  std::vector<int32_t> joined;
  const std::string text(1'000'000, 'x');
  for (const std::string_view part : tokenizer.split(text)) tokenizer.encode_part(part, joined);
  EXPECT_EQ(joined.size(), text.size());
}

// U+2581 is the one character that decoding turns into another (a space).
std::string without_block(std::string text) {
  const std::string block = "\u2581";
  for (size_t at = text.find(block); at != std::string::npos; at = text.find(block)) {
    text.erase(at, block.size());
  }
  return text;
}

TEST(Tokenizer, TrainedModelsLoseNothing) {
  for (const TokenizerKind kind : {TokenizerKind::unigram, TokenizerKind::bpe}) {
    const Tokenizer tokenizer(small_model(kind), "test");
    EXPECT_EQ(tokenizer.vocabulary(), 400);
    EXPECT_EQ(tokenizer.bos(), 1);
    EXPECT_EQ(tokenizer.eos(), 2);
    for (const std::string& text :
         {std::string("Call me Ishmael. \n  Some years ago —"), without_block(sample_text(500, 7)),
          std::string(" leading"), std::string("trailing \n "), std::string("   "),
          std::string("кот 猫 \x01")}) {
      const std::vector<int32_t> ids = tokenizer.encode(text);
      EXPECT_EQ(tokenizer.decode(ids), text);
      std::string joined;
      for (const int32_t id : ids) joined += tokenizer.bytes_of(id);
      EXPECT_EQ(joined, " " + text);  // the dummy prefix
    }
    EXPECT_TRUE(tokenizer.encode("").empty());
  }
}

TEST(Tokenizer, TrainingGivesTheSameBytesAgain) {
  EXPECT_EQ(small_model(TokenizerKind::unigram), small_model(TokenizerKind::unigram));
  EXPECT_EQ(small_model(TokenizerKind::bpe), small_model(TokenizerKind::bpe));
}

TEST(Tokenizer, CutsDoNotChangeIds) {
  for (const TokenizerKind kind : {TokenizerKind::unigram, TokenizerKind::bpe}) {
    const std::string model = small_model(kind);
    const Tokenizer tokenizer(model, "test");
    const CutRule rule(parse_sentencepiece(model, "test"));
    ASSERT_TRUE(rule.possible());
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const std::string text = sample_text(3000, seed);
      EXPECT_GT(rule.split(text, 1).size(), 200U);
      const std::vector<int32_t> expected = whole_call(model, text);
      if (kind == TokenizerKind::bpe) {
        EXPECT_EQ(cut_finely(tokenizer, rule, text), expected);
        EXPECT_EQ(tokenizer.encode(text), expected);
      } else {
        // A small vocabulary has many paths of equal score, among which rounding in 32 bits
        // decides. Parts must not be worse.
        const double whole_score = path_score(model, expected);
        for (const auto& ids : {cut_finely(tokenizer, rule, text), tokenizer.encode(text)}) {
          EXPECT_EQ(tokenizer.decode(ids), tokenizer.decode(expected));
          EXPECT_GE(path_score(model, ids), whole_score - 1e-5 * std::abs(whole_score));
        }
      }
    }
  }
}

// The bytes of a field of a protocol buffer message, appended to a model: later fields override.
std::string with_normalizer(std::string model, int dummy_prefix, int remove_extra) {
  std::string field = {0x18, static_cast<char>(dummy_prefix), 0x20,
                       static_cast<char>(remove_extra)};
  model += std::string{0x1a, static_cast<char>(field.size())} + field;
  return model;
}

TEST(Tokenizer, CutsDoNotChangeIdsUnderAnyWhitespaceRule) {
  const std::string base = small_model(TokenizerKind::bpe);
  for (const int dummy_prefix : {0, 1}) {
    for (const int remove_extra : {0, 1}) {
      const std::string model = with_normalizer(base, dummy_prefix, remove_extra);
      const SentencePieceModel parsed = parse_sentencepiece(model, "test");
      EXPECT_EQ(parsed.dummy_prefix, dummy_prefix == 1);
      EXPECT_EQ(parsed.remove_extra_whitespace, remove_extra == 1);
      const CutRule rule(parsed);
      EXPECT_EQ(rule.possible(), dummy_prefix == 1 || remove_extra == 0);
      const Tokenizer tokenizer(model, "test");
      for (uint64_t seed = 0; seed < 10; ++seed) {
        const std::string text = sample_text(2000, seed);
        EXPECT_EQ(cut_finely(tokenizer, rule, text), whole_call(model, text));
      }
    }
  }
}

std::string piece_field(const std::string& text, char type) {
  std::string piece = std::string{0x0a, static_cast<char>(text.size())} + text;
  piece += std::string{0x15, 0, 0, 0x20, 0x41};  // score 10
  piece += std::string{0x18, type};
  return std::string{0x0a, static_cast<char>(piece.size())} + piece;
}

TEST(Tokenizer, PiecesOverSpacesForbidCutsThere) {
  // A piece "e▁" of any type, and a user-defined piece with a space.
  const std::string base = small_model(TokenizerKind::bpe);
  for (const char type : {1, 4, 5}) {
    const std::string model = base + piece_field("e\u2581", type);
    const CutRule rule(parse_sentencepiece(model, "test"));
    const Tokenizer tokenizer(model, "test");
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const std::string text = sample_text(2000, seed);
      const auto parts = rule.split(text, 1);
      for (size_t i = 0; i + 1 < parts.size(); ++i) EXPECT_NE(parts[i].back(), 'e');
      EXPECT_EQ(cut_finely(tokenizer, rule, text), whole_call(model, text));
    }
  }
  EXPECT_FALSE(CutRule(parse_sentencepiece(base + piece_field("a whale", 4), "test")).possible());
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(Tokenizer, RefusesWhatIsNotAModel) {
  const TemporaryFolder folder;
  const auto load = [&](const std::string& content) {
    write_file(folder / "bad.model", content);
    return error_of([&] { load_tokenizer(folder / "bad.model"); });
  };
  const std::string model = small_model(TokenizerKind::bpe);
  EXPECT_THAT(load(""), HasSubstr("it has no pieces"));
  EXPECT_THAT(load("not a model at all"), HasSubstr("not a sound SentencePiece model"));
  EXPECT_THAT(load(model.substr(0, model.size() / 2)), HasSubstr("not a sound"));
  EXPECT_THAT(load(model + piece_field("the", 1) + piece_field("the", 1)),
              HasSubstr("occurs twice"));
  EXPECT_THAT(load(model + piece_field("<0x41", 6)), HasSubstr("not of the form"));
  EXPECT_THAT(error_of([&] { load_tokenizer(folder / "none.model"); }),
              HasSubstr("cannot open the file: No such file"));
  write_file(folder / "good.model", model);
  EXPECT_EQ(load_tokenizer(folder / "good.model")->model(), model);
  EXPECT_THAT(error_of([&] { load_tokenizer(folder / "good.model", "0123"); }),
              HasSubstr("but 0123 was expected"));
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  const Tokenizer tokenizer(small_model(TokenizerKind::bpe), "test");
  EXPECT_THROW(tokenizer.decode(std::vector<int32_t>{400}), Error);
  EXPECT_THROW(tokenizer.decode(std::vector<int32_t>{-1}), Error);
  EXPECT_THROW(tokenizer.bytes_of(400), Error);
}

TEST(Tokenizer, TrainingNeedsTextAndRoomForCharacters) {
  EXPECT_THROW(train_tokenizer({}, {}), Error);
  EXPECT_THROW(train_tokenizer({"a"}, {.vocabulary = 10}), Error);
  EXPECT_THROW(train_tokenizer({"just one line of text"}, {.vocabulary = 5000}), Error);
}

// Real models and texts.
class RealTokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto folder = testing::shared_data();
    if (!folder) GTEST_SKIP() << "no folder of shared data (set SIDEWINDER_SHARED)";
    folder_ = *folder;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "tokenizers")) {
      if (entry.path().extension() == ".model") models_.push_back(entry.path());
    }
    models_.push_back(folder_ / "checkpoints/stories260k/tok512.model");
    ASSERT_GE(models_.size(), 5U);
  }
  std::filesystem::path folder_;
  std::vector<std::filesystem::path> models_;
};

TEST_F(RealTokenizer, GivesTheRecordedEncodings) {
  std::ifstream lines(folder_ / "tokenizers/encodings.jsonl");
  std::map<std::string, std::unique_ptr<Tokenizer>> tokenizers;
  for (const auto& path : models_) {
    const std::string stem = path.stem().string();
    tokenizers[stem == "tok512" ? "stories260k-tok512" : stem] = load_tokenizer(path.string());
  }
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const auto record = nlohmann::json::parse(line);
    const std::string name = record["model"];
    const Tokenizer& tokenizer = *tokenizers.at(name);
    const std::string text = record["text"];
    const std::vector<int32_t> ids = record["ids"];
    EXPECT_EQ(tokenizer.encode(text), ids) << name << ": " << text;
    EXPECT_EQ(tokenizer.decode(ids), record["decoded"].get<std::string>());
  }
  EXPECT_EQ(count, 185);
}

TEST_F(RealTokenizer, CutsDoNotChangeIds) {
  for (const auto& path : models_) {
    SCOPED_TRACE(path);
    const auto tokenizer = load_tokenizer(path.string());
    const CutRule rule(parse_sentencepiece(tokenizer->model(), path.string()));
    EXPECT_TRUE(rule.possible());
    for (const char* name : {"tinyshakespeare.txt", "austen/emma.txt", "wikitext2-valid.txt"}) {
      const std::string text = read_file((folder_ / "text" / name).string());
      // Whole calls of 32 KiB: short enough that path scores of unigram models do not lose the
      // digits that decide between nearly equal paths.
      for (size_t at = 0; at + 200'000 < text.size(); at += 200'000) {
        size_t begin = at;
        while ((static_cast<unsigned char>(text[begin]) & 0xc0U) == 0x80) ++begin;
        size_t end = begin + 32'768;
        while ((static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80) ++end;
        const std::string part = text.substr(begin, end - begin);
        ASSERT_EQ(cut_finely(*tokenizer, rule, part), whole_call(tokenizer->model(), part));
        ASSERT_EQ(tokenizer->encode(part), whole_call(tokenizer->model(), part));
      }
    }
  }
}

TEST_F(RealTokenizer, DamagedModelsAreErrorsNotCrashes) {
  const TemporaryFolder folder;
  int refused = 0;
  for (const char* name :
       {"tokenizers/t5-unigram-32k.model", "checkpoints/stories260k/tok512.model",
        "tokenizers/sentencepiece-test-unigram1k.model"}) {
    const std::string good = read_file((folder_ / name).string());
    const Philox philox(3, name);
    for (uint64_t trial = 0; trial < 25; ++trial) {
      std::string bad = good;
      for (uint64_t i = 0; i <= trial % 4; ++i) {
        const uint64_t draw = philox.bits(trial * 8 + i);
        bad[draw % bad.size()] = static_cast<char>(draw >> 40);
      }
      if (trial % 5 == 4) bad.resize(philox.bits(trial + 1000) % bad.size());
      write_file(folder / "bad.model", bad);
      try {
        const auto tokenizer = load_tokenizer(folder / "bad.model");
        tokenizer->encode("some text, 123");
      } catch (const Error& error) {
        EXPECT_EQ(error.exit_code(), ExitCode::environment) << error.what();
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 15);  // at least the truncated ones
}

}  // namespace
}  // namespace sidewinder
