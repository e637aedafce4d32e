#include "tools/commands/convert.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/huggingface_folder.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using testing::TemporaryFolder;
using testing::tiny_llama_config;
using testing::tiny_mamba_config;
using testing::write_huggingface_folder;

void expect_good(const ProgramResult& result) { EXPECT_EQ(result.exit_code, 0) << result.errors; }

TEST(Convert, AModelComesBackAsItWas) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder / "llama", tiny_llama_config({{"use_cache", true}}), "BF16");
  write_huggingface_folder(folder / "mamba", tiny_mamba_config(), "F16");
  for (const std::string name : {"llama", "mamba"}) {
    expect_good(run_program({"convert", name, name + "-run", "--json", "in.json"}, folder.path()));
    const auto result = nlohmann::json::parse(testing::read_file(folder / "in.json"));
    EXPECT_EQ(result["direction"], "import");
    EXPECT_EQ(result["tokenizer"], "bytes");
    expect_good(run_program({"convert", name + "-run", name + "-back"}, folder.path()));
    EXPECT_EQ(testing::tensor_bytes(folder / (name + "-back")),
              testing::tensor_bytes(folder / name));
    EXPECT_EQ(testing::read_file(folder / (name + "-back/config.json")),
              testing::read_file(folder / (name + "/config.json")));
  }
}

TEST(Convert, AFolderCanBeUsedDirectlyOrConverted) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder / "hf", tiny_llama_config());
  expect_good(run_program({"convert", "hf", "run"}, folder.path()));
  std::ofstream(folder / "text") << "abcabcabc";
  std::string outputs[2];
  double losses[2] = {};
  for (int i = 0; i < 2; ++i) {
    const std::string model = i == 0 ? "hf" : "run";
    const ProgramResult text =
        run_program({"generate", model, "--prompt", "abc", "--tokens", "8", "--temperature", "0"},
                    folder.path());
    expect_good(text);
    outputs[i] = text.output;
    expect_good(
        run_program({"eval", model, "--text", "text", "--json", "eval.json"}, folder.path()));
    losses[i] = nlohmann::json::parse(testing::read_file(folder / "eval.json"))["loss"];
  }
  EXPECT_EQ(outputs[0], outputs[1]);
  EXPECT_EQ(losses[0], losses[1]);
  const ProgramResult wrong =
      run_program({"generate", "hf", "--prompt", "a", "--bos"}, folder.path());
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.errors, HasSubstr("this tokenizer has no BOS; leave --bos out"));
}

TEST(Convert, AnImportedModelCanBeTrainedAndWrittenBack) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  write_huggingface_folder(folder / "hf", tiny_llama_config({{"use_cache", true}}), "BF16");
  expect_good(run_program({"convert", "hf", "base"}, folder.path()));
  std::ofstream(folder / "tune.toml") << R"(
extends = "base/model.toml"
[init]
from = "base"
[data]
validation = "tokens/validation"
[[data.train]]
name = "documents"
folder = "tokens/train"
[train]
steps = 2
context = 64
tokens_per_step = 128
precision = "f32"
[learning_rate]
peak = 1e-3
[checkpoint]
every_steps = 1
)";
  expect_good(run_program({"train", "tune.toml"}, folder.path()));
  expect_good(run_program({"convert", "runs/tune", "tuned"}, folder.path()));
  // What the config says has not changed; the weights have, and are of the same types.
  EXPECT_EQ(testing::read_file(folder / "tuned/config.json"),
            testing::read_file(folder / "hf/config.json"));
  const auto before = testing::tensor_bytes(folder / "hf");
  const auto after = testing::tensor_bytes(folder / "tuned");
  ASSERT_EQ(after.size(), before.size());
  EXPECT_NE(after, before);
  for (const auto& [name, bytes] : after) {
    EXPECT_EQ(bytes.substr(0, bytes.find(']')), before.at(name).substr(0, bytes.find(']')));
  }
  // And the same directly from the folder.
  expect_good(
      run_program({"train", "tune.toml", "--set", "init.from=hf", "--set", "run.folder=direct"},
                  folder.path()));
  expect_good(run_program({"convert", "direct", "tuned-direct"}, folder.path()));
  EXPECT_EQ(testing::tensor_bytes(folder / "tuned-direct"), after);
}

TEST(Convert, ATrainedRunIsWrittenWithANewConfig) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  expect_good(run_program(
      {"train", "tiny.toml", "--set", "model.layers=w", "--set", "train.steps=2"}, folder.path()));
  expect_good(run_program({"convert", "runs/tiny", "hf", "--dtype", "bf16"}, folder.path()));
  const auto config = nlohmann::json::parse(testing::read_file(folder / "hf/config.json"));
  EXPECT_EQ(config["model_type"], "mistral");
  EXPECT_EQ(config["sliding_window"], 16);
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  const ProgramResult seen = run_program({"inspect", "hf", "--tensors"}, folder.path());
  expect_good(seen);
  EXPECT_THAT(seen.output, HasSubstr("model type   \"mistral\"\n"));
  EXPECT_THAT(seen.output,
              HasSubstr("model.layers.0.self_attn.k_proj.weight          BF16  [32, 32]"));
  expect_good(
      run_program({"inspect", "hf/model.safetensors", "--json", "seen.json"}, folder.path()));
  EXPECT_EQ(nlohmann::json::parse(testing::read_file(folder / "seen.json"))["tensors"].size(), 11U);

  const ProgramResult parts =
      run_program({"convert", "runs/tiny", "parts", "--dtype", "bf16", "--max-file-size", "10KB"},
                  folder.path());
  expect_good(parts);
  EXPECT_THAT(parts.output, HasSubstr("11 in "));
  EXPECT_FALSE(fs::exists(folder / "parts/model.safetensors"));
  EXPECT_EQ(testing::tensor_bytes(folder / "parts"), testing::tensor_bytes(folder / "hf"));
}

TEST(Convert, AGrowingRunIsWrittenAsItIs) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  testing::write_tiny_recipe(folder);
  std::ofstream(folder / "grow.toml") << R"(
extends = "tiny.toml"
[model]
layers = "w"
[context]
curve = "stages"
[[context.stage]]
from = 0
length = 16
[context.stage.block.w]
window = 4
[[context.stage]]
from = 3
length = 64
[checkpoint]
keep_last = 10
)";
  expect_good(run_program({"train", "grow.toml", "--set", "train.steps=4"}, folder.path()));
  for (const int step : {2, 4}) {
    const std::string to = fmt::format("hf-{}", step);
    expect_good(
        run_program({"convert", fmt::format("runs/grow/step-{:09}", step), to}, folder.path()));
    const auto config = nlohmann::json::parse(testing::read_file(folder / (to + "/config.json")));
    EXPECT_EQ(config["sliding_window"], step == 2 ? 4 : 16);
    EXPECT_EQ(config["max_position_embeddings"], step == 2 ? 16 : 64);
  }
}

TEST(Convert, MistakesAreSaidAndLeaveNothingBehind) {
  const TemporaryFolder folder;
  write_huggingface_folder(folder / "hf", tiny_llama_config());
  const auto errors = [&](const std::vector<std::string>& arguments) {
    const ProgramResult result = run_program(arguments, folder.path());
    EXPECT_EQ(result.exit_code, 2);
    return result.errors;
  };
  EXPECT_THAT(errors({"convert", "none", "to"}), HasSubstr("none: there is no such folder"));
  EXPECT_THAT(
      errors({"convert", "hf", "hf"}),
      HasSubstr("hf: is there already; name a folder that does not exist, or an empty one"));
  EXPECT_THAT(errors({"convert", "hf", "to", "--dtype", "bf16"}),
              HasSubstr("--dtype is for writing Hugging Face folders"));
  expect_good(run_program({"convert", "hf", "run"}, folder.path()));
  EXPECT_THAT(errors({"convert", "run", "to", "--dtype", "int8"}),
              HasSubstr("--dtype is int8; weights can be written as f32, bf16 or f16"));
  fs::resize_file(folder / "hf/model.safetensors", 5000);
  EXPECT_EQ(run_program({"convert", "hf", "to"}, folder.path()).exit_code, 3);
  EXPECT_FALSE(fs::exists(folder / "to"));
  EXPECT_FALSE(fs::exists(folder / ".tmp-to"));
}

TEST(Convert, WeightsOfAnotherTokenizerAreNotTrainedFrom) {
  const TemporaryFolder folder;
  testing::make_tiny_corpus(folder);
  write_huggingface_folder(folder / "hf", tiny_llama_config({{"vocab_size", 512}}));
  expect_good(run_program({"convert", "hf", "base", "--tokenizer", "bytes"}, folder.path()));
  expect_good(run_program(
      {"tokenize", "documents.jsonl", "--output", "pieces", "--vocabulary", "300"}, folder.path()));
  std::ofstream(folder / "tune.toml") << R"(
extends = "base/model.toml"
[init]
from = "base"
[[data.train]]
name = "pieces"
folder = "pieces/train"
[train]
steps = 1
context = 64
tokens_per_step = 64
[learning_rate]
peak = 1e-3
)";
  const ProgramResult result = run_program({"train", "tune.toml"}, folder.path());
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(
      result.errors,
      HasSubstr("init.from, base, was trained with the tokenizer of digest bytes but the data "
                "was made with "));
}

}  // namespace
}  // namespace sidewinder
