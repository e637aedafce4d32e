// The promise: a killed run continues bit for bit. A short run is killed with SIGKILL after every
// step, in the middle of packing carries and across the end of an epoch, and continued; its final
// weights, moments and metrics equal those of a run that nobody disturbed.
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <pty.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "checkpoints/store.h"
#include "kernels/cpu/isa.h"
#include "tests/support/program.h"
#include "tests/support/random.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

using testing::ProgramResult;
using testing::run_program;
using testing::TemporaryFolder;

// Starts `train`, lets `at_step` act on the process as soon as the metrics show `step`, and returns
// how it ended; 0 if that was before. Its errors are in errors.txt.
int train_and(const TemporaryFolder& folder, const std::string& recipe, const std::string& run,
              int64_t step, const std::function<void(pid_t)>& at_step) {
  const pid_t child = fork();
  if (child == 0) {
    if (chdir(folder.path().c_str()) != 0) _exit(126);
    if (freopen("/dev/null", "w", stdout) == nullptr ||
        freopen("errors.txt", "w", stderr) == nullptr) {
      _exit(126);
    }
    signal(SIGXFSZ, SIG_IGN);  // a limit on the size of files then is an error of write()
    const std::string set = "run.folder=" + run;
    execl(SIDEWINDER_PROGRAM, "sidewinder", "train", recipe.c_str(), "--set", set.c_str(), nullptr);
    _exit(127);
  }
  const std::string metrics = folder / (run + "/metrics.jsonl");
  const std::string wanted = "\"step\":" + std::to_string(step) + ",";
  for (;;) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) return 0;
    const std::string text = testing::read_file(metrics);
    if (text.find(wanted) != std::string::npos) break;
    usleep(200);
  }
  at_step(child);
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

// Kills the run that many microseconds after the step; whether it was still running then.
bool train_until(const TemporaryFolder& folder, const std::string& recipe, const std::string& run,
                 int64_t step, useconds_t delay = 0) {
  const int status = train_and(folder, recipe, run, step, [delay](pid_t child) {
    usleep(delay);
    kill(child, SIGKILL);
  });
  return WIFSIGNALED(status);
}

bool has_unfinished_save(const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().rfind(".tmp-", 0) == 0) return true;
  }
  return false;
}

std::map<std::string, Tensor> final_tensors(const TemporaryFolder& folder, const std::string& run) {
  const CheckpointContent content = load_checkpoint_or_newest(folder / run);
  EXPECT_EQ(content.step, testing::kTinySteps);
  std::map<std::string, Tensor> tensors;
  for (const NamedTensor& entry : content.tensors) tensors[entry.name] = entry.tensor;
  return tensors;
}

void expect_same_final_tensors(const TemporaryFolder& folder, const std::string& run,
                               const std::string& other) {
  const auto expected = final_tensors(folder, other);
  const auto actual = final_tensors(folder, run);
  EXPECT_GT(expected.size(), 30U);
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    EXPECT_TRUE(testing::same_bits(tensor, actual.at(name))) << name;
  }
}

// The records without what depends on the clock or on how often the run was started.
std::vector<std::string> timeless_metrics(const TemporaryFolder& folder, const std::string& run) {
  std::istringstream lines(testing::read_file(folder / (run + "/metrics.jsonl")));
  std::vector<std::string> records;
  for (std::string line; std::getline(lines, line);) {
    nlohmann::json record = nlohmann::json::parse(line);
    for (const char* key :
         {"time", "speed/tokens_per_second", "speed/seconds_per_step", "speed/mfu",
          "memory/peak_bytes", "data/wait_share", "checkpoint/stall_seconds",
          "checkpoint/copy_seconds", "checkpoint/write_seconds"}) {
      record.erase(key);
    }
    records.push_back(record.dump());
  }
  return records;
}

// Kills a run of `recipe` after each of its steps; the end must be that of an undisturbed one.
void expect_same_bits_when_killed(const TemporaryFolder& folder, const std::string& recipe) {
  const ProgramResult whole =
      run_program({"train", recipe, "--set", "run.folder=whole"}, folder.path());
  ASSERT_EQ(whole.exit_code, 0) << whole.errors;

  // One run that is killed again and again, after each of its steps.
  int kills = 0;
  for (int step = 1; step < testing::kTinySteps; ++step) {
    if (train_until(folder, recipe, "killed", step)) ++kills;
  }
  const ProgramResult last =
      run_program({"train", recipe, "--set", "run.folder=killed"}, folder.path());
  ASSERT_EQ(last.exit_code, 0) << last.errors;
  EXPECT_GE(kills, testing::kTinySteps / 2);
  expect_same_final_tensors(folder, "killed", "whole");
  EXPECT_EQ(timeless_metrics(folder, "killed"), timeless_metrics(folder, "whole"));
}

TEST(Resume, KilledAfterEveryStepEndsInTheSameBits) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  expect_same_bits_when_killed(folder, "tiny.toml");
}

// Checkpoints are written while training goes on. Kills at many moments of that.
TEST(Resume, KilledWhileACheckpointIsBeingWrittenEndsInTheSameBits) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  ASSERT_EQ(
      run_program({"train", "tiny.toml", "--set", "run.folder=whole"}, folder.path()).exit_code, 0);
  int unfinished = 0;
  for (int i = 0; i < 20; ++i) {
    // Not beyond what is left of the run: it gets on by about one step with each trial.
    const int64_t step = 1 + i / 2;
    if (!train_until(folder, "tiny.toml", "killed", step, static_cast<useconds_t>(i % 10) * 400)) {
      continue;
    }
    if (has_unfinished_save(folder / "killed")) ++unfinished;
  }
  std::printf("%d of 20 kills left an unfinished save\n", unfinished);
  EXPECT_GT(unfinished, 0);
  const ProgramResult last =
      run_program({"train", "tiny.toml", "--set", "run.folder=killed"}, folder.path());
  ASSERT_EQ(last.exit_code, 0) << last.errors;
  EXPECT_FALSE(has_unfinished_save(folder / "killed"));
  expect_same_final_tensors(folder, "killed", "whole");
}

// Training waits for every checkpoint, or for none but the last: the same bits.
TEST(Resume, SavingInTheBackgroundChangesNoBits) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  for (const char* run : {"true", "false"}) {
    const ProgramResult done = run_program(
        {"train", "tiny.toml", "--set", std::string("run.folder=run-") + run, "--set",
         std::string("checkpoint.asynchronous=") + run, "--set", "checkpoint.keep_last=100"},
        folder.path());
    ASSERT_EQ(done.exit_code, 0) << done.errors;
  }
  const auto found = list_checkpoints(folder / "run-true");
  ASSERT_EQ(found.size(), static_cast<size_t>(testing::kTinySteps));
  for (const FoundCheckpoint& checkpoint : found) {
    const CheckpointContent a = load_checkpoint(checkpoint.folder);
    const CheckpointContent b = load_checkpoint(
        folder / ("run-false/" + std::filesystem::path(checkpoint.folder).filename().string()));
    ASSERT_EQ(a.tensors.size(), b.tensors.size());
    for (size_t i = 0; i < a.tensors.size(); ++i) {
      EXPECT_TRUE(testing::same_bits(a.tensors[i].tensor, b.tensors[i].tensor))
          << checkpoint.step << " " << a.tensors[i].name;
    }
  }
  // What the saves cost stands in the metrics of the steps after them.
  int records = 0;
  std::istringstream lines(testing::read_file(folder / "run-true/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    if (record.contains("train/loss")) {
      EXPECT_LE(record.at("data/wait_share"), 1.0);
    }
    if (!record.contains("checkpoint/stall_seconds")) continue;
    ++records;
    EXPECT_GE(record.at("checkpoint/stall_seconds"), record.at("checkpoint/copy_seconds"));
  }
  EXPECT_EQ(records, testing::kTinySteps - 1);
}

// The disk is full (files may not grow) while a run saves in the background.
TEST(Resume, AFailureToWriteEndsTheRunAtTheNextStepAndLosesNoCheckpoint) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  const int status = train_and(folder, "tiny.toml", "run", 4, [](pid_t child) {
    rlimit limit{};
    ASSERT_EQ(prlimit(child, RLIMIT_FSIZE, nullptr, &limit), 0);
    limit.rlim_cur = 60'000;  // metrics are shorter, checkpoints longer
    ASSERT_EQ(prlimit(child, RLIMIT_FSIZE, &limit, nullptr), 0);
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 3);
  const CheckpointContent left = load_checkpoint_or_newest(folder / "run");
  EXPECT_GE(left.step, 2);
  EXPECT_LT(left.step, testing::kTinySteps);
  EXPECT_THAT(
      testing::read_file(folder / "errors.txt"),
      ::testing::HasSubstr(fmt::format("the newest checkpoint is from step {};", left.step)));
  EXPECT_FALSE(has_unfinished_save(folder / "run"));
  // With room again it goes on to the same end.
  ASSERT_EQ(run_program({"train", "tiny.toml", "--set", "run.folder=run"}, folder.path()).exit_code,
            0);
  ASSERT_EQ(
      run_program({"train", "tiny.toml", "--set", "run.folder=whole"}, folder.path()).exit_code, 0);
  expect_same_final_tensors(folder, "run", "whole");
}

// The stages begin with steps 5 and 10: runs are killed before, at and after these edges.
TEST(Resume, KilledAroundTheEdgesOfStagesEndsInTheSameBits) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_growing_recipes(folder);
  expect_same_bits_when_killed(folder, "growing.toml");

  // What the run says of itself.
  std::map<int64_t, nlohmann::json> train;
  std::map<int64_t, nlohmann::json> validation;
  for (const std::string& line : timeless_metrics(folder, "killed")) {
    const nlohmann::json record = nlohmann::json::parse(line);
    const int64_t step = record.at("step");
    auto& records = record.contains("validation/loss") ? validation : train;
    EXPECT_EQ(records.count(step), 0U) << step;
    records[step] = record;
  }
  ASSERT_EQ(train.size(), static_cast<size_t>(testing::kTinySteps));
  for (const auto& [step, record] : train) {
    EXPECT_EQ(record.at("train/context"), step <= 4 ? 16 : step <= 9 ? 32 : 64) << step;
    EXPECT_EQ(record.at("train/window/w"), step <= 4 ? 4 : 16) << step;
    const auto count = [&metrics = record](const char* name) {
      return metrics.at(name).get<int64_t>();
    };
    EXPECT_EQ(count("data/trained_tokens") + count("data/padding"), 128 * step);
    EXPECT_EQ(count("data/drawn_tokens"), count("data/trained_tokens") +
                                              count("data/dropped_tokens") +
                                              count("data/deferred_tokens"));
    EXPECT_TRUE(record.contains("train/loss_at_position/8-15"));
    EXPECT_EQ(record.contains("train/loss_at_position/32-63"), step > 9);
  }
  // The learning rate warms up again over three steps at each edge.
  const auto rate = [&](int64_t step) {
    return train[step].at("train/learning_rate").get<double>();
  };
  EXPECT_LT(rate(5), 0.5 * rate(4));
  EXPECT_GT(rate(7), 2 * rate(5));
  EXPECT_LT(rate(10), 0.5 * rate(9));
  // At the edges at the old and the new context, and every five steps.
  for (const auto& [step, context] :
       std::map<int64_t, int64_t>{{4, 32}, {5, 32}, {9, 64}, {10, 64}, {14, 64}}) {
    ASSERT_EQ(validation.count(step), 1U) << step;
    EXPECT_EQ(validation[step].at("validation/context"), context);
    EXPECT_TRUE(validation[step].contains("validation/loss_at_128"));
    EXPECT_EQ(validation[step].contains("validation/loss_at_16"), step == 4);
    EXPECT_EQ(validation[step].contains("validation/loss_at_32"), step == 9);
  }
  EXPECT_EQ(validation.size(), 5U);
  const std::string log = testing::read_file(folder / "killed/train.log");
  EXPECT_NE(
      log.find("stage 1: context 32, 4 rows of 32, window of w 16, rope base of w 10000 (before: "
               "context 16, 8 rows of 16, window of w 4, rope base of w 100)"),
      std::string::npos)
      << log;
  // The base of the first stage is in effect from the first step on.
  const ProgramResult other = run_program({"train", "growing.toml", "--set", "run.folder=other",
                                           "--set", "context.stage.0.block.w.rope_base=10000"},
                                          folder.path());
  ASSERT_EQ(other.exit_code, 0) << other.errors;
  EXPECT_NE(nlohmann::json::parse(timeless_metrics(folder, "other").front()).at("train/loss"),
            train[1].at("train/loss"));
}

// Killed while documents are under way: their states come from the checkpoint.
TEST(Resume, KilledInTheMiddleOfDocumentsEndsInTheSameBits) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_growing_recipes(folder);
  expect_same_bits_when_killed(folder, "carried.toml");
  int64_t under_way = 0;
  int64_t cut = 0;
  for (const std::string& line : timeless_metrics(folder, "killed")) {
    const nlohmann::json record = nlohmann::json::parse(line);
    if (!record.contains("data/documents_under_way")) continue;
    under_way += record.at("data/documents_under_way").get<int64_t>() > 0 ? 1 : 0;
    cut = record.at("data/cut_documents");
  }
  EXPECT_GE(under_way, 10);
  EXPECT_GE(cut, 1);
  const std::string log = testing::read_file(folder / "killed/train.log");
  EXPECT_NE(log.find("documents under way lost states so far"), std::string::npos) << log;
  // The first edge changes the rotary base, so that keys from before it are of no use.
  EXPECT_NE(log.find("step 5: blocks w start anew in"), std::string::npos) << log;
}

// Random keys are stored nowhere: a run that goes on draws the same again.
TEST(Masks14, ARunKilledAfterEveryStepKeepsItsRandomKeys) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  std::ofstream(folder / "random.toml") << R"(
extends = "tiny.toml"
[model.block.w]
pattern = "bigbird"
pattern_block = 8
global_tokens = 8
random_blocks = 2
pattern_seed = 5
)";
  expect_same_bits_when_killed(folder, "random.toml");
  const auto mask = [&](const std::string& run) {
    const TrainedModel trained = load_trained_model(folder / run);
    const AttentionPattern pattern =
        attention_pattern(trained.recipe.model.blocks.at("w"), "blocks.1.mixer");
    std::string text;
    for (int64_t query = 0; query < 64; ++query) {
      const AttentionRow row = pattern.row(query);
      for (int64_t key = 0; key < 64; ++key) text += row.allows(key) ? '1' : '0';
    }
    return text;
  };
  EXPECT_EQ(mask("killed"), mask("whole"));
  // The seed is in the weights: with another one the run ends elsewhere.
  const ProgramResult other = run_program({"train", "random.toml", "--set", "run.folder=other",
                                           "--set", "model.block.w.pattern_seed=6"},
                                          folder.path());
  ASSERT_EQ(other.exit_code, 0) << other.errors;
  EXPECT_NE(mask("other"), mask("whole"));
  EXPECT_NE(timeless_metrics(folder, "other").back(), timeless_metrics(folder, "whole").back());
}

TEST(Resume, ChunksOfRowsChangeNothingButRounding) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_growing_recipes(folder);
  std::map<std::string, std::vector<double>> losses;
  for (const char* chunk : {"0", "12"}) {
    const std::string run = std::string("chunk-") + chunk;
    const ProgramResult done =
        run_program({"train", "carried.toml", "--set", "run.folder=" + run, "--set",
                     "train.precision=f32", "--set", std::string("train.sequence_chunk=") + chunk},
                    folder.path());
    ASSERT_EQ(done.exit_code, 0) << done.errors;
    for (const std::string& line : timeless_metrics(folder, run)) {
      const nlohmann::json record = nlohmann::json::parse(line);
      if (record.contains("train/loss")) losses[run].push_back(record.at("train/loss"));
    }
  }
  ASSERT_EQ(losses["chunk-12"].size(), static_cast<size_t>(testing::kTinySteps));
  for (size_t i = 0; i < losses["chunk-12"].size(); ++i) {
    EXPECT_NEAR(losses["chunk-12"][i], losses["chunk-0"][i], 2e-3) << i;
  }
}

TEST(Resume, MasksGrowInTheSameBitsToo) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_growing_recipes(folder);
  expect_same_bits_when_killed(folder, "masked.toml");
}

// The warm-up recipes of the tree, made small: their edges come at steps 4, 7 and 10, or after
// every step of the curve.
TEST(Resume, WarmupRecipesOfTheTreeEndInTheSameBits) {
  const std::string small = R"(
[model]
width = 32
vocabulary = 256
repeat = 2
[data]
validation = "tokens/validation"
packing_buffer = 3
[[data.train]]
name = "documents"
folder = "tokens/train"
[train]
steps = 14
context = 128
tokens_per_step = 256
tokens_per_micro_batch = 128
log_every = 1
validate_every = 0
validate_tokens = 0
[learning_rate]
warmup_steps = 2
[checkpoint]
every_steps = 1
keep_last = 2
keep_every = 0
)";
  const auto stages = [](bool windows) {
    std::string text = "[context]\nvalidate_lengths = [16]\n";
    const int64_t from[] = {0, 4, 7, 10};
    for (int64_t i = 0; i < 4; ++i) {
      text += fmt::format("[[context.stage]]\nfrom = {}\nlength = {}\n", from[i], 16 << i);
      if (windows && i < 2) text += fmt::format("[context.stage.block.w]\nwindow = {}\n", 2 << i);
    }
    return text;
  };
  struct Case {
    std::string recipe, blocks, context;
  };
  const std::string heads = "head_width = 16\nhidden = 64\n";
  for (const Case& recipe :
       {Case{"smoke/warmup", "[model.block.g]\n" + heads, stages(false)},
        Case{"pretrain/samba-20m-warmup",
             "[model.block.m]\nstate = 4\nhidden = 64\ndt_rank = 2\n[model.block.w]\nwindow = 8\n" +
                 heads,
             stages(true)},
        Case{"smoke/copy-warmup",
             "[model.block.m]\nstate = 4\nhidden = 64\n[model.block.w]\nhidden = 64\n"
             "head_width = 16\n",
             "[context]\nfirst = 16\nramp = 11\n"}}) {
    SCOPED_TRACE(recipe.recipe);
    const TemporaryFolder folder;
    testing::make_tiny_corpus(folder);
    std::ofstream(folder / "short.toml")
        << fmt::format("extends = \"{}/recipes/{}.toml\"\n", SIDEWINDER_SOURCE_DIR, recipe.recipe)
        << small << recipe.blocks << recipe.context;
    expect_same_bits_when_killed(folder, "short.toml");
    std::vector<int64_t> lengths;
    for (const std::string& line : timeless_metrics(folder, "killed")) {
      const nlohmann::json record = nlohmann::json::parse(line);
      if (record.contains("train/context")) lengths.push_back(record["train/context"]);
    }
    ASSERT_EQ(lengths.size(), static_cast<size_t>(testing::kTinySteps));
    EXPECT_EQ(lengths.front(), 16);
    EXPECT_EQ(lengths.back(), 128);
    EXPECT_GE(std::set<int64_t>(lengths.begin(), lengths.end()).size(), 4U);
  }
}

TEST(Resume, NumberOfThreadsDoesNotMatter) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  std::map<std::string, Tensor> first;
  for (const char* threads : {"1", "2", "3"}) {
    setenv("SIDEWINDER_THREADS", threads, 1);
    const std::string run = std::string("threads-") + threads;
    const ProgramResult done =
        run_program({"train", "tiny.toml", "--set", "run.folder=" + run}, folder.path());
    unsetenv("SIDEWINDER_THREADS");
    ASSERT_EQ(done.exit_code, 0) << done.errors;
    const auto tensors = final_tensors(folder, run);
    if (first.empty()) first = tensors;
    for (const auto& [name, tensor] : first) {
      EXPECT_TRUE(testing::same_bits(tensor, tensors.at(name))) << name << ", threads " << threads;
    }
  }
}

// A run that saves when `every` says is stopped after step 3, by `stop`.
void expect_save_at_stop(const std::string& every, const std::function<pid_t(int*)>& start,
                         const std::function<void(pid_t, int)>& stop) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  int terminal = -1;
  const pid_t child = start(&terminal);
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (chdir(folder.path().c_str()) != 0) _exit(126);
    execl(SIDEWINDER_PROGRAM, "sidewinder", "train", "tiny.toml", "--set", "run.folder=run",
          "--set", "train.steps=100000", "--set", every.c_str(), nullptr);
    _exit(127);
  }
  while (testing::read_file(folder / "run/metrics.jsonl").find("\"step\":3,") ==
         std::string::npos) {
    usleep(500);
  }
  stop(child, terminal);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 75);
  EXPECT_GE(load_checkpoint_or_newest(folder / "run").step, 3);
  EXPECT_FALSE(has_unfinished_save(folder / "run"));
}

// Once where the stop makes the only checkpoint, once in the middle of others.
void expect_save_at_termination(const std::string& every) {
  expect_save_at_stop(
      every, [](int*) { return fork(); }, [](pid_t child, int) { kill(child, SIGTERM); });
}

TEST(Resume, TerminationSavesAndAsksForARequeue) {
  expect_save_at_termination("checkpoint.every_steps=0");
  expect_save_at_termination("checkpoint.every_steps=1");
}

// As when the connection to the machine breaks: nothing can be written to the terminal any more.
TEST(Resume, ALostTerminalSavesAndAsksForARequeue) {
  expect_save_at_stop(
      "checkpoint.every_steps=0",
      [](int* terminal) { return forkpty(terminal, nullptr, nullptr, nullptr); },
      [](pid_t, int terminal) { close(terminal); });
}

TEST(Resume, AChangedKeyThatMayNotChangeIsNamed) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  const std::vector<std::string> base = {"train", "tiny.toml", "--set", "run.folder=run"};
  auto with = [&](std::initializer_list<std::string> more) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), more);
    return run_program(arguments, folder.path());
  };
  ASSERT_EQ(with({"--set", "train.steps=2"}).exit_code, 0);
  const ProgramResult changed = with({"--set", "optimizer.beta2=0.99"});
  EXPECT_EQ(changed.exit_code, 2);
  EXPECT_NE(changed.errors.find("optimizer.beta2"), std::string::npos) << changed.errors;
  EXPECT_NE(changed.errors.find("--fresh"), std::string::npos) << changed.errors;
  // Growing the number of steps continues; --fresh starts beside the old run.
  EXPECT_EQ(with({"--set", "train.steps=4"}).exit_code, 0);
  const ProgramResult fresh =
      with({"--set", "optimizer.beta2=0.99", "--set", "train.steps=2", "--fresh"});
  EXPECT_EQ(fresh.exit_code, 0) << fresh.errors;
  EXPECT_EQ(load_checkpoint_or_newest(folder / "run-2").step, 2);
  EXPECT_EQ(load_checkpoint_or_newest(folder / "run").step, 4);
}

TEST(Resume, AnotherInstructionSetIsRefusedUnlessAllowed) {
  if (best_isa() == Isa::generic) GTEST_SKIP() << "this CPU runs the generic kernels only";
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  setenv("SIDEWINDER_ISA", "generic", 1);
  const ProgramResult made = run_program(
      {"train", "tiny.toml", "--set", "run.folder=run", "--set", "train.steps=2"}, folder.path());
  unsetenv("SIDEWINDER_ISA");
  ASSERT_EQ(made.exit_code, 0) << made.errors;
  const ProgramResult refused =
      run_program({"train", "tiny.toml", "--set", "run.folder=run"}, folder.path());
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.errors.find("--allow-different-cpu"), std::string::npos) << refused.errors;
  EXPECT_EQ(run_program({"train", "tiny.toml", "--set", "run.folder=run", "--allow-different-cpu"},
                        folder.path())
                .exit_code,
            0);
}

}  // namespace
}  // namespace sidewinder
