#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <cmath>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "data/files.h"
#include "data/sentencepiece_model.h"
#include "kernels/base/error.h"
#include "kernels/base/philox.h"
#include "tests/support/message_of.h"
#include "tests/support/sentencepiece.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::cut_finely;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::whole_call;

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

// The sum of the pieces' log probabilities, which unigram models maximise.
double path_score(const std::string& model, const std::vector<int32_t>& ids) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.LoadFromSerializedProto(model).ok());
  double score = 0;
  for (const int32_t id : ids) score += processor.GetScore(id);
  return score;
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
  return testing::message_of(action, ExitCode::environment);
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

}  // namespace
}  // namespace sidewinder
