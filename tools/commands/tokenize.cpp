#include "tools/commands/tokenize.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "data/corpus_builder.h"
#include "data/files.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// On a terminal a bar that is redrawn; otherwise a line every few seconds. On standard error.
class ProgressDisplay {
 public:
  ~ProgressDisplay() {
    if (drawn_) fmt::print(stderr, "\n");
  }

  void show(const CorpusBuildProgress& progress) {
    const bool new_stage = progress.stage != stage_;
    if (new_stage) {
      stage_ = progress.stage;
      stage_begin_ = Clock::now();
    }
    const double interval = terminal_ ? 0.2 : 5.0;
    if (!new_stage && seconds_since(shown_) < interval) return;
    shown_ = Clock::now();
    const std::string text = describe(progress);
    if (terminal_) {
      fmt::print(stderr, "{}{}\033[K", new_stage && drawn_ ? "\n" : "\r", text);
      drawn_ = true;
    } else {
      fmt::print(stderr, "{}\n", text);
    }
    std::fflush(stderr);
  }

 private:
  std::string describe(const CorpusBuildProgress& progress) const {
    if (progress.file_bytes_total == 0) return progress.stage;
    const double seconds = seconds_since(stage_begin_);
    const double done =
        static_cast<double>(progress.file_bytes) / static_cast<double>(progress.file_bytes_total);
    std::string text = progress.stage + ' ';
    if (terminal_) {
      constexpr int kWidth = 24;
      const auto filled = static_cast<size_t>(done * kWidth);
      text += '[' + std::string(filled, '=') + std::string(kWidth - filled, ' ') + "] ";
    }
    text += fmt::format("{:3.0f} %  {} documents  {:.1f} MB", 100 * done, progress.documents,
                        static_cast<double>(progress.text_bytes) * 1e-6);
    if (seconds > 0.5 && done > 0) {
      text += fmt::format("  {:.1f} MB/s  {:.0f} s left",
                          static_cast<double>(progress.text_bytes) * 1e-6 / seconds,
                          seconds * (1 - done) / done);
    }
    return text;
  }

  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool drawn_ = false;
  std::string stage_;
  Clock::time_point stage_begin_ = Clock::now();
  Clock::time_point shown_ = Clock::now();
};

template <typename Value>
Value one_of(const std::string& key, const std::string& text,
             const std::vector<std::pair<std::string, Value>>& choices) {
  std::string names;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    names += (names.empty() ? "" : ", ") + name;
  }
  fail_user("{} is \"{}\"; it must be one of {}", key, text, names);
}

CorpusBuildOptions options_of(const TokenizeCommand& command) {
  CorpusBuildOptions options;
  options.inputs = command.inputs;
  options.output = command.output;
  options.text.field = command.field;
  options.text.invalid = one_of<InvalidText>("--invalid", command.invalid,
                                             {{"error", InvalidText::error},
                                              {"replace", InvalidText::replace},
                                              {"skip", InvalidText::skip}});
  options.text.max_document_bytes = static_cast<uint64_t>(command.max_document_mib) << 20;
  options.tokenizer = command.tokenizer;
  options.training.kind =
      one_of<TokenizerKind>("--model-type", command.model_type,
                            {{"unigram", TokenizerKind::unigram}, {"bpe", TokenizerKind::bpe}});
  options.training.vocabulary = command.vocabulary;
  options.sample_bytes = command.sample_mib << 20;
  options.bos = command.bos;
  options.eos = command.eos;
  options.hold_out = command.hold_out;
  options.shard_tokens = command.shard_tokens;
  options.join_bytes = command.join_bytes;
  options.keep_duplicates = command.keep_duplicates;
  return options;
}

struct PartSums {
  int64_t shards = 0;
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
};

PartSums sums_of(const std::vector<ShardRecord>& shards) {
  PartSums sums;
  sums.shards = static_cast<int64_t>(shards.size());
  for (const ShardRecord& shard : shards) {
    sums.documents += shard.documents;
    sums.tokens += shard.tokens;
    sums.text_bytes += shard.text_bytes;
  }
  return sums;
}

void print_part(const char* name, const PartSums& sums) {
  fmt::print(
      "{:<11} {} documents, {} tokens, {:.1f} MB of text ({:.2f} bytes a token), {} shard{}\n",
      name, sums.documents, sums.tokens, static_cast<double>(sums.text_bytes) * 1e-6,
      sums.tokens == 0 ? 0.0
                       : static_cast<double>(sums.text_bytes) / static_cast<double>(sums.tokens),
      sums.shards, sums.shards == 1 ? "" : "s");
}

nlohmann::json to_json(const PartSums& sums) {
  return {{"shards", sums.shards},
          {"documents", sums.documents},
          {"tokens", sums.tokens},
          {"text_bytes", sums.text_bytes}};
}

}  // namespace

ExitCode tokenize(const TokenizeCommand& command) {
  const CorpusBuildOptions options = options_of(command);
  const auto begin = Clock::now();
  CorpusBuildResult result;
  {
    ProgressDisplay display;
    result =
        build_corpus(options, [&](const CorpusBuildProgress& progress) { display.show(progress); });
  }
  const double seconds = seconds_since(begin);
  const PartSums train = sums_of(result.index.train);
  const PartSums validation = sums_of(result.index.validation);

  if (result.was_complete) fmt::print("the corpus is complete already; nothing was done\n");
  print_part("train", train);
  print_part("validation", validation);
  if (!result.was_complete) {
    fmt::print("left out    {} duplicates, {} empty, {} invalid ({} more were mended)\n",
               result.duplicates, result.text.empty, result.text.skipped, result.text.replaced);
    if (result.kept_shards > 0) {
      fmt::print("kept        {} shards of an interrupted run\n", result.kept_shards);
    }
    fmt::print("seconds     {:.1f}\n", seconds);
  }
  fmt::print("vocabulary  {}, tokenizer {}\n", result.index.vocabulary,
             result.index.tokenizer_digest);
  fmt::print("corpus      {0}/train{1}\n", options.output,
             validation.shards > 0 ? ", " + options.output + "/validation" : "");
  if (options.hold_out > 0 && validation.shards == 0) {
    fmt::print("note        no document fell into the held-out share of {}; there are too few\n",
               options.hold_out);
  }
  if (!command.json_path.empty()) {
    const nlohmann::json summary = {{"output", options.output},
                                    {"complete_already", result.was_complete},
                                    {"tokenizer_digest", result.index.tokenizer_digest},
                                    {"vocabulary", result.index.vocabulary},
                                    {"bos", result.index.bos},
                                    {"eos", result.index.eos},
                                    {"train", to_json(train)},
                                    {"validation", to_json(validation)},
                                    {"files", result.text.files},
                                    {"duplicates", result.duplicates},
                                    {"empty", result.text.empty},
                                    {"skipped", result.text.skipped},
                                    {"replaced", result.text.replaced},
                                    {"kept_shards", result.kept_shards},
                                    {"seconds", seconds}};
    write_file(command.json_path, summary.dump(1) + "\n");
  }
  return ExitCode::success;
}

}  // namespace sidewinder
