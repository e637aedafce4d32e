// What a user gets wrong, or what breaks under them: the exit code says who has to act, the message
// what was found and what to do, and nothing is lost.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/support/program.h"
#include "tests/support/small_disk.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
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
  // other/: a corpus of the same kind of text whose ids are pieces, not bytes.
  void tokenize_otherwise(const std::string& vocabulary = "300") {
    std::string text;
    for (int i = 0; i < 300; ++i) text += fmt::format("word {:x} of line {}\n", i * 2654435761u, i);
    write(folder_ / "other.txt", text);
    const ProgramResult made = run({"tokenize", "other.txt", "--output", "other", "--vocabulary",
                                    vocabulary, "--hold-out", "0"});
    ASSERT_EQ(made.exit_code, 0) << made.errors;
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

TEST_F(Messages, ACommandThatThereIsNotIsNamed) {
  const std::string errors = run({"trian", "a.toml"}).errors;
  EXPECT_THAT(errors, AllOf(HasSubstr("no command \"trian\""), HasSubstr("did you mean train?")));
  EXPECT_THAT(run({"show", "schedul", "a.toml"}).errors,
              AllOf(HasSubstr("no command \"show schedul\""), HasSubstr("did you mean schedule?")));
  EXPECT_THAT(run({"recipe"}).errors, HasSubstr("check, show, explain or docs"));
}

TEST_F(Messages, AFileThatCannotBeWrittenIsFoundBeforeTheWork) {
  prepare();
  const ProgramResult trained = run({"train", "tiny.toml", "--json", "nowhere/a.json"});
  EXPECT_EQ(trained.exit_code, 3);
  EXPECT_THAT(trained.errors, AllOf(HasSubstr("--json"), HasSubstr("nowhere")));
  EXPECT_FALSE(fs::exists(folder_ / "runs/tiny/metrics.jsonl"));
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=3"}).exit_code, 0);
  const std::vector<std::string> eval = {"eval", "runs/tiny", "--data", "tokens", "--report"};
  for (const std::string path : {"nowhere/a.html", "a.svg"}) {
    std::vector<std::string> command = eval;
    command.push_back(path);
    const ProgramResult result = run(command);
    EXPECT_NE(result.exit_code, 0) << path;
    EXPECT_THAT(result.errors, AllOf(HasSubstr("--report"), HasSubstr(path)));
    EXPECT_EQ(result.output, "");
  }
}

TEST_F(Messages, NoCommandWorksForAResultThatCannotBeWritten) {
  testing::write_tiny_recipe(folder_);
  fs::create_directory(folder_ / "taken");
  const std::vector<std::vector<std::string>> commands = {
      {"plan", "tiny.toml"},          {"bench", "tiny.toml"},    {"selftest"},
      {"convert", "model", "run"},    {"generate", "runs/tiny"}, {"inspect", "runs/tiny"},
      {"recipe", "show", "tiny.toml"}};
  for (std::vector<std::string> command : commands) {
    command.insert(command.end(), {"--json", "nowhere/a.json"});
    const ProgramResult result = run(command);
    EXPECT_EQ(result.exit_code, 3) << command[0];
    EXPECT_THAT(result.errors,
                HasSubstr("--json is nowhere/a.json, but there is no folder nowhere"));
    EXPECT_EQ(result.output, "") << command[0];
  }
  EXPECT_THAT(run({"synthesize", "passkey", "nowhere/a.jsonl"}).errors,
              HasSubstr("no folder nowhere"));
  EXPECT_THAT(run({"plan", "tiny.toml", "--json", "taken"}).errors,
              HasSubstr("--json is taken, which is a folder"));
}

TEST_F(Messages, NumbersOutOfRangeAreFoundBeforeAnythingIsRead) {
  const auto refused = [&](const std::vector<std::string>& command, const std::string& message) {
    const ProgramResult result = run(command);
    EXPECT_EQ(result.exit_code, 2) << message;
    EXPECT_THAT(result.errors, HasSubstr(message));
    EXPECT_EQ(result.output, "") << message;
  };
  const std::vector<std::string> tokenize = {"tokenize", "no.txt", "--output", "o"};
  const auto with = [](std::vector<std::string> command, const std::string& option,
                       const std::string& value) {
    command.insert(command.end(), {option, value});
    return command;
  };
  refused(with(tokenize, "--vocabulary", "0"),
          "--vocabulary is 0; use an integer of at least 300 and at most 1000000");
  refused(with(tokenize, "--sample-mib", "-1"), "--sample-mib is -1");
  refused(with(tokenize, "--hold-out", "1"),
          "--hold-out is 1; use a number of at least 0 and below 1");
  refused(with(tokenize, "--join-bytes", "-1"), "--join-bytes is -1");
  refused(with(tokenize, "--shard-tokens", "0"), "--shard-tokens is 0");
  refused(with(tokenize, "--max-document-mib", "1.5"), "--max-document-mib is 1.5; use an integer");
  const std::vector<std::string> generate = {"generate", "no-run"};
  refused(with(generate, "--seed", "-1"), "--seed is -1; use an integer of at least 0");
  refused(with(generate, "--tokens", "0"), "--tokens is 0; use an integer of at least 1");
  refused(with(generate, "--temperature", "nan"), "--temperature is nan; use a number");
  refused(with(generate, "--top-k", "-1"), "--top-k is -1");
  refused(with(generate, "--top-p", "0"), "--top-p is 0; use a number above 0 and at most 1");
  const std::vector<std::string> eval = {"eval", "no-run", "--data", "no"};
  refused(with(eval, "--context", "0"), "--context is 0");
  refused(with(eval, "--stride", "-1"), "--stride is -1");
  refused(with(eval, "--chunk", "0"), "--chunk is 0");
  refused({"eval", "no-run", "--tasks", "passkey", "--seed", "-1"}, "--seed is -1");
  refused({"convert", "no", "a", "--max-file-size", "-1"}, "--max-file-size is -1");
  refused({"convert", "no", "a", "--max-file-size", "0GB"}, "--max-file-size is 0GB");
  refused({"plan", "no.toml", "--lengths", "64,0"}, "--lengths is 0");
  refused({"plan", "no.toml", "--mfu", "1.1"}, "--mfu is 1.1");
  refused({"plan", "--json", "plan.json"}, "name a recipe, or leave --set, --lengths and --json");
  refused(with(eval, "--stride", "4"), "--stride has no effect without --lengths; add it");
  refused({"eval", "no-run", "--data", "no", "--stream", "--single-window"},
          "--single-window has no effect without --lengths");
  refused({"eval", "no-run", "--data", "no", "--lengths", "8", "--chunk", "4"},
          "--chunk has no effect without --stream");
  refused({"eval", "no-run", "--data", "no", "--join"},
          "--join has no effect without --lengths or --stream");
  refused({"eval", "no-run", "--data", "no", "--lengths", "8", "--context", "4"},
          "--context excludes --lengths");
  refused({"show", "schedule", "no.toml", "--rows", "x"}, "--rows is x; use an integer");
  refused({"show", "pattern", "window", "--window", "x"}, "--window is x; use an integer");
  refused({"tokenize", "no.txt", "--output", "o", "--tokenizer", "bytes", "--vocabulary", "300"},
          "--tokenizer excludes --vocabulary");
  refused({"bench", "no.toml", "--steps", "0"}, "--steps is 0");
  refused({"synthesize", "passkey", "a.jsonl", "--documents", "0"}, "--documents is 0");
}

TEST_F(Messages, OptionsOfAnotherKindOfBenchAreRefused) {
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& message) {
    std::vector<std::string> command = {"bench", "--json", "bench.json"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const ProgramResult result = run(command);
    EXPECT_EQ(result.exit_code, 2) << message;
    EXPECT_THAT(result.errors, HasSubstr(message));
  };
  refused(
      {"kernels", "--steps", "3"},
      "--steps has no effect in bench kernels; leave it out, or use it in bench RECIPE or RECIPE "
      "--documents");
  refused({"kernels", "--text", "no.txt"}, "use it in bench data");
  refused({"data", "--set", "train.steps=3"}, "--set has no effect in bench data");
  refused({"data", "--documents"}, "--documents has no effect in bench data");
  refused(
      {"no.toml", "--check"},
      "--check has no effect in bench RECIPE; leave it out, or use it in bench kernels, data or "
      "RECIPE --documents");
  refused({"no.toml", "--only", "rms"}, "use it in bench kernels or data");
  refused({"no.toml", "--documents", "--profile"},
          "--profile has no effect in bench RECIPE --documents; leave it out, or use it in bench "
          "RECIPE\n");
}

TEST_F(Messages, TextsThatDoNotGoWithAVocabulary) {
  write(folder_ / "short.txt", "a short text of some words\n");
  write(folder_ / "empty.txt", "");
  const auto tokenize = [&](const std::string& text, const std::string& vocabulary) {
    const ProgramResult result =
        run({"tokenize", text, "--output", "out", "--vocabulary", vocabulary, "--hold-out", "0"});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.errors, Not(HasSubstr("Internal")));
    return result.errors;
  };
  EXPECT_THAT(tokenize("short.txt", "8192"),
              AllOf(HasSubstr("no more than 3"), HasSubstr("use --vocabulary 3")));
  std::string characters;
  for (int i = 0; i < 500; ++i) {
    for (const int byte : {0xe4, 0x80 + i / 64, 0x80 + i % 64}) {
      characters += static_cast<char>(byte);
    }
  }
  write(folder_ / "many.txt", characters + characters);
  EXPECT_THAT(tokenize("many.txt", "400"),
              AllOf(HasSubstr("need a vocabulary of 7"), HasSubstr("--vocabulary 7")));
  EXPECT_THAT(tokenize("empty.txt", "400"),
              AllOf(HasSubstr("1 documents are empty"), HasSubstr("name files with text")));
}

TEST_F(Messages, HelpListsTheExitCodesThatThereAre) {
  const std::string help = run({"--help"}).output;
  EXPECT_THAT(help, AllOf(HasSubstr("1 a bar"), HasSubstr("75 saved"), HasSubstr("79 too many")));
  EXPECT_THAT(help, AllOf(Not(HasSubstr("80")), Not(HasSubstr("81"))));
}

TEST_F(Messages, ARunThatIsRefusedLeavesNothingBehind) {
  prepare();
  const auto refused = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"train", "tiny.toml"});
    EXPECT_NE(run(more).exit_code, 0);
    return !fs::exists(folder_ / "runs/tiny");
  };
  const std::vector<std::string> bad_data = {"--set", "data.train.0.folder=nowhere"};
  EXPECT_TRUE(refused(bad_data));
  EXPECT_TRUE(refused({"--set", "data.validation=nowhere"}));
  EXPECT_TRUE(refused({"--set", "model.vocabulary=100"}));
  EXPECT_TRUE(refused({"--json", "nowhere/a.json"}));
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=3"}).exit_code, 0);
  EXPECT_FALSE(refused(bad_data));
  EXPECT_TRUE(fs::exists(newest_checkpoint(folder_ / "runs/tiny")));
}

TEST_F(Messages, ADiskWithoutRoomForACheckpointIsFoundBeforeTheFirstStep) {
  prepare();
  const testing::SmallDisk disk(folder_ / "disk", "size=300k");
  if (!disk.mounted()) GTEST_SKIP() << "no small file system can be mounted here";
  const ProgramResult result = run({"train", "tiny.toml", "--set", "run.folder=disk/run"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, AllOf(HasSubstr("a checkpoint needs "), Not(HasSubstr("step 1 of"))));
  EXPECT_FALSE(fs::exists(folder_ / "disk/run"));
}

TEST_F(Messages, ALimitOnTheSizeOfFilesIsAnErrorNotASignal) {
  prepare();
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {60'000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const ProgramResult result = run({"train", "tiny.toml"});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, HasSubstr("File too large"));
}

TEST_F(Messages, PathsThatCannotBeUsedAreNotOurBug) {
  tokenize_otherwise();
  testing::write_tiny_recipe(folder_);
  fs::remove(folder_ / "other/tokenizer.model");
  const ProgramResult incomplete =
      run({"train", "tiny.toml", "--set", "model.vocabulary=512", "--set",
           "data.validation=", "--set", "data.train.0.folder=other"});
  EXPECT_EQ(incomplete.exit_code, 3);
  EXPECT_THAT(incomplete.errors, HasSubstr("other/tokenizer.model: cannot be copied to"));
  const ProgramResult result = run({"generate", std::string(300, 'a')});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, AllOf(HasSubstr("name too long"), HasSubstr("name a path")));
}

TEST_F(Messages, TextsOfThePromptAreUtf8) {
  const ProgramResult result = run({"generate", "no-run", "--prompt", "abc\xff"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("--prompt: byte 3 (0xff) is not valid UTF-8"));
}

TEST_F(Messages, EvalSaysWhichPartOfACorpusItTook) {
  prepare();
  const ProgramResult trained = run({"train", "tiny.toml", "--set", "train.steps=3"});
  ASSERT_EQ(trained.exit_code, 0);
  EXPECT_THAT(trained.output, ::testing::ContainsRegex("memory +[0-9.]+ MiB at most"));
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"--lengths", "8"}}) {
    const auto output_of = [&](const std::string& data) {
      std::vector<std::string> command = {"eval", "runs/tiny", "--data", data};
      command.insert(command.end(), more.begin(), more.end());
      return run(command).output;
    };
    EXPECT_THAT(output_of("tokens"), HasSubstr("data         tokens/train"));
    EXPECT_THAT(output_of("tokens/validation/"), HasSubstr("data         tokens/validation"));
  }
  // Rows that no text fills are not made.
  EXPECT_EQ(run({"eval", "runs/tiny", "--data", "tokens", "--context", "1000000000"}).exit_code, 0);
}

TEST_F(Messages, InspectOfAFileThatItDoesNotKnow) {
  write(folder_ / "a.json", "{}");
  const ProgramResult result = run({"inspect", "a.json"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, AllOf(HasSubstr("a.json"), HasSubstr("neither a run folder")));
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

TEST_F(Messages, MissingModelToStartFrom) {
  prepare();
  const ProgramResult result = run({"train", "tiny.toml", "--set", "init.from=runs/nowhere"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, AllOf(HasSubstr("init.from"), HasSubstr("runs/nowhere")));
  EXPECT_FALSE(fs::exists(folder_ / "runs"));  // no empty run is left behind
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
  EXPECT_THAT(resumed.errors,
              AllOf(HasSubstr(newest.filename().string()), HasSubstr("after step 5")));
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
  const ProgramResult result =
      run({"tokenize", "a.jsonl", "--output", "out", "--tokenizer", "bytes"});
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
  write(folder_ / "a.txt", "some text");
  for (const std::string path : {"empty", "a.txt", "step-000000005", "nowhere"}) {
    const ProgramResult result = run({"generate", path, "--prompt", "a"});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.errors, HasSubstr(path + ": there is no checkpoint; name a checkpoint"));
  }
}

TEST_F(Messages, EvalWantsOneSource) {
  prepare();
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=3"}).exit_code, 0);
  EXPECT_EQ(run({"eval", "runs/tiny"}).exit_code, 2);
  const ProgramResult good = run(
      {"eval", "runs/tiny", "--data", "tokens/validation", "--baselines", "--json", "eval.json"});
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

TEST_F(Messages, ValidationDataIsLookedAtBeforeTheFirstStep) {
  testing::make_letter_corpus(folder_, {.hold_out = "0", .lengths = [](int) {
                                          return testing::LetterCorpus::Lengths{5, 150};
                                        }});
  testing::write_tiny_recipe(folder_);
  const auto refused = [&](const std::string& validation) {
    ProgramResult result = run({"train", "tiny.toml", "--set", "model.vocabulary=512", "--set",
                                "data.validation=" + validation});
    EXPECT_THAT(result.errors, Not(HasSubstr("step 1 of")));
    EXPECT_FALSE(fs::exists(folder_ / "runs/tiny/metrics.jsonl"));
    return result;
  };
  const ProgramResult missing = refused("tokens/validation");
  EXPECT_EQ(missing.exit_code, 3);
  EXPECT_THAT(missing.errors, AllOf(HasSubstr("tokens/validation"), HasSubstr("--hold-out")));

  tokenize_otherwise();
  const ProgramResult foreign = refused("other");
  EXPECT_EQ(foreign.exit_code, 2);
  EXPECT_THAT(foreign.errors, AllOf(HasSubstr("other"), HasSubstr("another tokenizer")));
}

TEST_F(Messages, ARunKeepsItsTokenizerWhenTheDataWasMadeAnew) {
  tokenize_otherwise();
  testing::write_tiny_recipe(folder_);
  const std::vector<std::string> train = {"train", "tiny.toml",
                                          "--set", "model.vocabulary=512",
                                          "--set", "data.validation=",
                                          "--set", "train.validate_every=0",
                                          "--set", "data.train=[{name=\"a\",folder=\"other\"}]"};
  const ProgramResult first = run(train);
  ASSERT_EQ(first.exit_code, 0) << first.errors;
  const std::string before = testing::read_file(folder_ / "runs/tiny/tokenizer.model");
  fs::remove_all(folder_ / "other");
  tokenize_otherwise("301");
  std::vector<std::string> longer = train;
  longer.insert(longer.end(), {"--set", "train.steps=20"});
  const ProgramResult result = run(longer);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("data_digest"));
  EXPECT_EQ(testing::read_file(folder_ / "runs/tiny/tokenizer.model"), before);
}

TEST_F(Messages, IdsOfAnotherTokenizerAreNotTheModels) {
  prepare();
  tokenize_otherwise();
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=3", "--set", "model.vocabulary=512"})
                .exit_code,
            0);
  const ProgramResult shards = run({"eval", "runs/tiny", "--data", "other"});
  EXPECT_EQ(shards.exit_code, 2);
  EXPECT_THAT(shards.errors, AllOf(HasSubstr("other"), HasSubstr("another tokenizer")));

  write(folder_ / "a.txt", "some text");
  const std::string foreign = "other/tokenizer.model";
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"generate", "runs/tiny", "--prompt", "a"},
        std::vector<std::string>{"eval", "runs/tiny", "--text", "a.txt"},
        std::vector<std::string>{"eval", "runs/tiny", "--text", "a.txt", "--lengths", "4"},
        std::vector<std::string>{"eval", "runs/tiny", "--tasks", "passkey", "--lengths", "400"}}) {
    std::vector<std::string> with_other = command;
    with_other.insert(with_other.end(), {"--tokenizer", foreign});
    const ProgramResult result = run(with_other);
    EXPECT_EQ(result.exit_code, 2) << command[0] << ' ' << command[2];
    EXPECT_THAT(result.errors, AllOf(HasSubstr("runs/tiny"), HasSubstr("tokenizer bytes")));
  }
}

TEST_F(Messages, EvalOfATextThatIsNone) {
  prepare();
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.steps=3"}).exit_code, 0);
  write(folder_ / "bad.txt", "good text\n\xff\xfe more");
  write(folder_ / "empty.txt", "");
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"--lengths", "4"}}) {
    const auto errors_of = [&](const std::string& text) {
      std::vector<std::string> command = {"eval", "runs/tiny", "--text", text};
      command.insert(command.end(), more.begin(), more.end());
      const ProgramResult result = run(command);
      EXPECT_TRUE(result.exit_code == 2 || result.exit_code == 3) << result.exit_code;
      return result.errors;
    };
    EXPECT_THAT(errors_of("bad.txt"), AllOf(HasSubstr("bad.txt"), HasSubstr("byte 10")));
    EXPECT_THAT(errors_of("tokens"), AllOf(HasSubstr("tokens"), HasSubstr("not a regular file")));
    EXPECT_THAT(errors_of("nowhere.txt"), HasSubstr("nowhere.txt"));
  }
  EXPECT_THAT(run({"eval", "runs/tiny", "--text", "empty.txt"}).errors, HasSubstr("at least 2"));
  const ProgramResult negative =
      run({"eval", "runs/tiny", "--text", "documents.jsonl", "--max-tokens", "-5"});
  EXPECT_EQ(negative.exit_code, 2);
  EXPECT_THAT(negative.errors, HasSubstr("--max-tokens is -5"));
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

TEST_F(Messages, OutputThatCannotBeWrittenIsNotSuccess) {
  const std::string command =
      std::string("exec " SIDEWINDER_PROGRAM " show schedule --help > /dev/full 2> ") +
      (folder_ / "errors");
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 3);
  EXPECT_THAT(testing::read_file(folder_ / "errors"),
              HasSubstr("standard output cannot be written: No space left on device"));
}

}  // namespace
}  // namespace sidewinder
