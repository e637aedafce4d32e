// What a user gets wrong, or what breaks under them: the exit code says who has to act, the message
// what was found and what to do, and nothing is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using testing::TemporaryFolder;

void write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

void flip_byte(const fs::path& path, uint64_t offset) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(offset));
  const char old = static_cast<char>(file.get());
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(static_cast<char>(old ^ 0x10));
}

fs::path newest_checkpoint(const std::string& run) {
  fs::path newest;
  for (const auto& entry : fs::directory_iterator(run)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step-", 0) == 0 && entry.path() > newest) newest = entry.path();
  }
  return newest;
}

class Messages : public ::testing::Test {
 protected:
  ProgramResult run(const std::vector<std::string>& arguments) {
    return run_program(arguments, folder_.path());
  }
  void prepare() {
    testing::make_tiny_corpus(folder_);
    testing::write_tiny_recipe(folder_);
  }
  TemporaryFolder folder_;
};

TEST_F(Messages, UnknownCommandAndOptionAreTheUsers) {
  EXPECT_EQ(run({"trian"}).exit_code, 2);
  EXPECT_EQ(run({"train", "a.toml", "--frehs"}).exit_code, 2);
  EXPECT_EQ(run({}).exit_code, 2);
  EXPECT_EQ(run({"--help"}).exit_code, 0);
  EXPECT_EQ(run({"train", "--help"}).exit_code, 0);
}

TEST_F(Messages, MissingRecipe) {
  const ProgramResult result = run({"train", "missing.toml"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("missing.toml"));
}

TEST_F(Messages, AllMistakesOfARecipeAtOnceWithPlaces) {
  prepare();
  write(folder_ / "bad.toml", testing::read_file(folder_ / "tiny.toml") +
                                  "\n[optimizer]\nbeta_2 = 0.9\nweight_decay = \"much\"\n");
  const ProgramResult result = run({"train", "bad.toml"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, AllOf(HasSubstr("bad.toml:"), HasSubstr("optimizer.beta_2"),
                                   HasSubstr("optimizer.beta2"), HasSubstr("weight_decay")));
}

TEST_F(Messages, MissingTokens) {
  testing::write_tiny_recipe(folder_);
  const ProgramResult result = run({"train", "tiny.toml"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, HasSubstr("tokens/train"));
}

TEST_F(Messages, VocabularySmallerThanTheData) {
  prepare();
  const ProgramResult result = run({"train", "tiny.toml", "--set", "model.vocabulary=100"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("at least 256"));
}

TEST_F(Messages, DamagedShard) {
  prepare();
  const fs::path shard = fs::path(folder_.path()) / "tokens/train/shard-00000.h5";
  const uint64_t size = fs::file_size(shard);
  for (uint64_t offset = 0; offset < size; offset += size / 7 + 1) {
    flip_byte(shard, offset);
    const ProgramResult result = run({"train", "tiny.toml", "--set", "train.steps=12", "--fresh"});
    // A flip in unused space is harmless; otherwise it is found, and named.
    if (result.exit_code != 0) {
      EXPECT_EQ(result.exit_code, 3) << result.errors;
      EXPECT_THAT(result.errors, HasSubstr("shard-00000.h5"));
    }
    flip_byte(shard, offset);
  }
  fs::resize_file(shard, size / 2);
  const ProgramResult result = run({"train", "tiny.toml", "--fresh"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, HasSubstr("shard-00000.h5"));
}

TEST_F(Messages, DamagedCheckpointFallsBackAndSaysSo) {
  prepare();
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=6"}).exit_code, 0);
  const fs::path newest = newest_checkpoint(folder_ / "runs/tiny");
  flip_byte(newest / "rank-0000.h5", fs::file_size(newest / "rank-0000.h5") / 2);
  const ProgramResult resumed = run({"train", "tiny.toml", "--set", "train.steps=8"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.errors;
  EXPECT_THAT(resumed.errors, AllOf(HasSubstr(newest.filename().string()), HasSubstr("after step 5")));
}

TEST_F(Messages, OnlyDamagedCheckpointsNeverStartFromScratch) {
  prepare();
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=6"}).exit_code, 0);
  for (const auto& entry : fs::directory_iterator(folder_ / "runs/tiny")) {
    if (entry.path().filename().string().rfind("step-", 0) == 0) {
      fs::resize_file(entry.path() / "manifest.json", 10);
    }
  }
  const ProgramResult result = run({"train", "tiny.toml"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, HasSubstr("manifest.json"));
}

TEST_F(Messages, TextThatIsNotUtf8) {
  write(folder_ / "bad.txt", "good text\n\xff\xfe more");
  const ProgramResult result =
      run({"tokenize", "bad.txt", "--output", "out", "--tokenizer", "bytes"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, AllOf(HasSubstr("bad.txt"), HasSubstr("10")));
  EXPECT_FALSE(fs::exists(folder_ / "out/index.json"));
}

TEST_F(Messages, MissingFieldNamesFileAndLine) {
  write(folder_ / "a.jsonl", "{\"text\":\"one\"}\n{\"body\":\"two\"}\n");
  const ProgramResult result = run({"tokenize", "a.jsonl", "--output", "out", "--tokenizer", "bytes"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, AllOf(HasSubstr("a.jsonl"), HasSubstr("2"), HasSubstr("text")));
}

TEST_F(Messages, DamagedTokenizer) {
  write(folder_ / "a.txt", "some text");
  write(folder_ / "broken.model", "this is no model");
  const ProgramResult result =
      run({"tokenize", "a.txt", "--output", "out", "--tokenizer", "broken.model"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, HasSubstr("broken.model"));
}

TEST_F(Messages, MissingInputFolder) {
  const ProgramResult result = run({"tokenize", "nowhere", "--output", "out"});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_NE(result.exit_code, 70) << result.errors;
  EXPECT_THAT(result.errors, HasSubstr("nowhere"));
}

TEST_F(Messages, GenerateWithoutACheckpoint) {
  fs::create_directory(folder_ / "empty");
  const ProgramResult result = run({"generate", "empty", "--prompt", "a"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("empty"));
}

TEST_F(Messages, EvalWantsOneSource) {
  prepare();
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=3"}).exit_code, 0);
  EXPECT_EQ(run({"eval", "runs/tiny"}).exit_code, 2);
  const ProgramResult good =
      run({"eval", "runs/tiny", "--data", "tokens/validation", "--baselines", "--json", "eval.json"});
  EXPECT_EQ(good.exit_code, 0) << good.errors;
  const nlohmann::json json = nlohmann::json::parse(testing::read_file(folder_ / "eval.json"));
  EXPECT_EQ(json.at("step"), 3);
  EXPECT_GT(json.at("bits_per_byte").get<double>(), 1.0);
  EXPECT_GT(json.at("baselines").at("unigram").at("loss").get<double>(), 1.0);
}

TEST_F(Messages, GenerationIsRepeatable) {
  prepare();
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=3"}).exit_code, 0);
  const std::vector<std::string> command = {"generate", "runs/tiny", "--prompt", "abc",
                                            "--tokens", "40",        "--seed",   "5"};
  const ProgramResult first = run(command);
  EXPECT_EQ(first.exit_code, 0) << first.errors;
  EXPECT_EQ(first.output, run(command).output);
  std::vector<std::string> other = command;
  other.back() = "6";
  EXPECT_NE(first.output, run(other).output);
}


TEST_F(Messages, AStepThatIsNeverFiniteStopsWithItsOwnCode) {
  prepare();
  const ProgramResult result =
      run({"train", "tiny.toml", "--set", "learning_rate.peak=1e30", "--set",
           "train.max_skipped_steps=3", "--set", "optimizer.max_gradient_norm=0", "--set",
           "learning_rate.warmup_steps=0"});
  EXPECT_EQ(result.exit_code, 79) << result.errors;
  EXPECT_THAT(result.errors, AllOf(HasSubstr("not finite"), HasSubstr("train.max_skipped_steps")));
}

}  // namespace
}  // namespace sidewinder
