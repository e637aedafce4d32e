#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/files.h"
#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"
#include "kernels/base/error.h"
#include "kernels/base/philox.h"
#include "tests/support/sentencepiece.h"
#include "tests/support/shared_data.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::cut_finely;
using testing::TemporaryFolder;
using testing::whole_call;

// Real models and texts.
class RealTokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    SIDEWINDER_SKIP_WITHOUT_SHARED_DATA()
    folder_ = *testing::shared_data();
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
