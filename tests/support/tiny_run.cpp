#include "tests/support/tiny_run.h"

#include <nlohmann/json.hpp>

#include <fstream>
#include <stdexcept>

#include "kernels/base/philox.h"
#include "tests/support/program.h"

namespace sidewinder::testing {

void make_letter_corpus(const TemporaryFolder& folder, const LetterCorpus& corpus) {
  const Philox random(corpus.seed, "documents");
  uint64_t draw = 0;
  std::ofstream file(folder / "documents.jsonl");
  for (int i = 0; i < corpus.documents; ++i) {
    const auto [shortest, longest] = corpus.lengths(i);
    const uint64_t length = shortest + random.below(draw++, longest - shortest + 1);
    std::string text;
    for (uint64_t k = 0; k < length; ++k) {
      text += static_cast<char>('a' + random.below(draw++, corpus.letters));
    }
    file << nlohmann::json{{"text", text}}.dump() << '\n';
  }
  file.close();
  const ProgramResult made = run_program({"tokenize", "documents.jsonl", "--output", "tokens",
                                          "--tokenizer", "bytes", "--hold-out", corpus.hold_out},
                                         folder.path());
  if (made.exit_code != 0) throw std::runtime_error("tokenize failed: " + made.errors);
}

void make_tiny_corpus(const TemporaryFolder& folder) {
  make_letter_corpus(
      folder, {.seed = 11, .documents = 16, .letters = 26, .hold_out = "0.1", .lengths = [](int) {
                 return LetterCorpus::Lengths{5, 150};
               }});
}

void write_tiny_recipe(const TemporaryFolder& folder) {
  std::ofstream(folder / "tiny.toml") << R"(
[run]
seed = 3
[model]
width = 32
vocabulary = 256
layers = "mw"
[model.block.m]
mixer = "mamba1"
state = 4
hidden = 64
[model.block.w]
mixer = "attention"
pattern = "window"
window = 16
head_width = 16
hidden = 64
[data]
packing_buffer = 3
validation = "tokens/validation"
[[data.train]]
name = "documents"
folder = "tokens/train"
[train]
steps = 14
context = 64
tokens_per_step = 128
precision = "bf16"
log_every = 1
validate_every = 5
[learning_rate]
peak = 1e-2
warmup_steps = 2
[checkpoint]
every_steps = 1
keep_last = 2
)";
}

void write_growing_recipes(const TemporaryFolder& folder) {
  write_tiny_recipe(folder);
  const std::string stages = R"(
[[context.stage]]
from = 0
length = 16
[context.stage.block.w]
window = 4
rope_base = 100
[[context.stage]]
from = 4
length = 32
[[context.stage]]
from = 9
length = 64
)";
  std::ofstream(folder / "growing.toml") << R"(
extends = "tiny.toml"
[data]
long_documents = "defer"
[context]
curve = "stages"
learning_rate = "rewarm"
rewarm_steps = 3
validate_lengths = [128]
)" << stages;
  std::ofstream(folder / "carried.toml") << R"(
extends = "tiny.toml"
[data]
long_documents = "continue_state"
[context]
curve = "stages"
)" << stages;
  std::ofstream(folder / "masked.toml") << R"(
extends = "tiny.toml"
[context]
curve = "stages"
form = "mask"
)" << stages;
}

}  // namespace sidewinder::testing
