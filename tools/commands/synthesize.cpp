#include "tools/commands/synthesize.h"

#include <nlohmann/json.hpp>

#include <fstream>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/base/philox.h"
#include "tools/commands/task_spec.h"

namespace sidewinder {
namespace {

// Text of an example; that of a task made of ids is a character per id.
std::string text_of(const TaskExample& example) {
  if (!example.prompt.empty()) return example.prompt + example.answer;
  return {example.tokens.begin(), example.tokens.end()};
}

}  // namespace

ExitCode synthesize(const SynthesizeCommand& command) {
  const TaskSpec spec = parse_task(command.task);
  const std::vector<int64_t> lengths = parse_lengths(command.lengths, "--lengths");
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(command.tokenizer);
  SIDEWINDER_REQUIRE(spec.kind->name != "mqar" || tokenizer->is_bytes(),
                     "mqar is made of token ids, which only the tokenizer bytes can write as text; "
                     "leave --tokenizer away");
  TaskSource source;
  source.tokenizer = tokenizer.get();
  source.vocabulary = 128;  // of mqar: ids that are text of one byte each
  source.seed = command.seed;
  source.purpose = "training";
  if (!command.haystack.empty()) source.haystack = read_haystack(command.haystack);
  const std::unique_ptr<Task> task = make_task(*spec.kind, spec.settings, source);

  std::ofstream file(command.output, std::ios::binary | std::ios::trunc);
  const Philox places(command.seed, "synthesize");
  for (int64_t i = 0; i < command.documents; ++i) {
    const auto draw = static_cast<uint64_t>(2 * i);
    const int64_t length = lengths[places.below(draw, lengths.size())];
    const TaskExample example = task->example(length, places.uniform(draw + 1), i);
    file << nlohmann::json{{"text", text_of(example)}, {"answers", example.answers}}.dump() << '\n';
  }
  file.close();
  if (!file) {
    fail_environment("cannot write {}; check that its folder exists and has room", command.output);
  }
  log_info("{} documents of task {} in {}", command.documents, command.task, command.output);
  return ExitCode::success;
}

}  // namespace sidewinder
