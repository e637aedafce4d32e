#include "tools/commands/bench_data.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <system_error>

#include "checkpoints/background_saver.h"
#include "data/corpus.h"
#include "data/files.h"
#include "data/row_stream.h"
#include "data/tokenizer.h"
#include "kernels/base/check.h"
#include "kernels/base/hdf5_file.h"
#include "kernels/base/philox.h"
#include "kernels/base/thread_pool.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kRoundSeconds = 0.2;
constexpr int kRounds = 3;
constexpr int kMostRounds = 12;  // below the bar: a neighbour on the machine may be the cause

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Units per second of `run`, which returns how many it has done, repeated for a while.
double rate_of(const std::function<double()>& run) {
  const Clock::time_point begin = Clock::now();
  double units = 0;
  double seconds = 0;
  while (seconds < kRoundSeconds) {
    units += run();
    seconds = seconds_since(begin);
  }
  return units / seconds;
}

struct DataBenchmark {
  std::string name;
  std::string detail;
  std::string unit;
  double scale = 1;  // of the unit
  double bar = 0;    // least share of the other's rate, or least rate where there is no other
  // Units per second; the second may be empty.
  std::function<double()> ours;
  std::function<double()> other = {};
  std::string other_name = {};
};

struct Result {
  const DataBenchmark* benchmark = nullptr;
  double ours = 0;
  double other = 0;

  double figure() const { return benchmark->other ? ours / other : ours; }
  bool good() const { return figure() >= benchmark->bar; }
};

Result measure(const DataBenchmark& benchmark) {
  Result result{&benchmark};
  for (int round = 0; round < kMostRounds; ++round) {
    result.ours = std::max(result.ours, benchmark.ours());
    if (benchmark.other) result.other = std::max(result.other, benchmark.other());
    if (round + 1 >= kRounds && result.good()) break;
  }
  return result;
}

void print_result(const Result& result) {
  const DataBenchmark& b = *result.benchmark;
  const auto rate = [&](double value) { return fmt::format("{:.1f} {}", value / b.scale, b.unit); };
  const std::string bar = b.bar == 0 ? "-"
                          : b.other  ? fmt::format("{:.2f} x", b.bar)
                                     : fmt::format("{:.0f}", b.bar / b.scale);
  fmt::print("{:<22} {:<34} {:>18} {:>18} {:>8} {:>7} {}\n", b.name, b.detail, rate(result.ours),
             b.other ? rate(result.other) : "-",
             b.other ? fmt::format("{:.2f} x", result.figure()) : "-", bar,
             b.bar == 0 ? "" : (result.good() ? "ok" : "below"));
  std::fflush(stdout);
}

// A folder in the system's place for temporary files that is removed at the end.
class WorkFolder {
 public:
  WorkFolder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "sidewinder-bench-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      fail_environment("{}: cannot create a folder; set TMPDIR to one that can be written",
                       pattern);
    }
    path_ = pattern;
  }
  ~WorkFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Text

std::string made_up_word(uint64_t rank) {
  const Philox random(rank, "bench.word");
  std::string word;
  // Common words are short.
  const auto syllables = 1 + random.below(0, 1 + static_cast<uint64_t>(std::log2(1.0 + rank)) / 4);
  for (uint64_t i = 1; i <= syllables; ++i) {
    word += "bcdfghjklmnprstvwz"[random.below(4 * i, 18)];
    word += "aeiou"[random.below(4 * i + 1, 5)];
    if (random.below(4 * i + 2, 3) == 0) word += "lnrst"[random.below(4 * i + 3, 5)];
  }
  return word;
}

// Sentences in paragraphs. The word of rank r comes with a probability like 1/r (Zipf).
std::string made_up_text(size_t bytes) {
  constexpr double kWords = 50000;
  const Philox random(1, "bench.text");
  std::string text;
  uint64_t draw = 0;
  while (text.size() < bytes) {
    const uint64_t words = 4 + random.below(draw++, 20);
    for (uint64_t i = 0; i < words; ++i) {
      const double rank = std::pow(kWords, random.uniform(draw++));
      std::string word = made_up_word(static_cast<uint64_t>(rank));
      if (i == 0) word[0] = static_cast<char>(word[0] - 'a' + 'A');
      if (random.below(draw++, 100) == 0) word = std::to_string(random.below(draw++, 3000));
      text += word;
      if (i + 1 < words) text += random.below(draw++, 12) == 0 ? ", " : " ";
    }
    text += random.below(draw++, 8) == 0 ? ".\n" : ". ";
  }
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    lines.push_back(text.substr(at, end - at));
    at = end;
  }
  return lines;
}

std::vector<std::string> samples_of(const std::vector<std::string>& lines) {
  std::vector<std::string> samples;
  for (const std::string& line : lines) {
    if (line.size() > 1 && line.size() <= kLongestSample) samples.push_back(line);
  }
  return samples;
}

struct NamedTokenizer {
  std::string name;
  std::shared_ptr<Tokenizer> tokenizer;
};

std::vector<NamedTokenizer> tokenizers_of(const BenchDataOptions& options,
                                          const std::vector<std::string>& lines) {
  std::vector<NamedTokenizer> result;
  for (const std::string& path : options.tokenizers) {
    result.push_back({std::filesystem::path(path).filename().string(), load_tokenizer(path)});
  }
  if (!result.empty()) return result;
  constexpr int64_t kVocabulary = 4096;
  for (const auto& [name, kind] :
       {std::pair{"BPE", TokenizerKind::bpe}, std::pair{"unigram", TokenizerKind::unigram}}) {
    const std::string model =
        train_tokenizer(samples_of(lines), {.kind = kind, .vocabulary = kVocabulary});
    result.push_back({fmt::format("{}, {} pieces", name, kVocabulary),
                      std::make_shared<Tokenizer>(model, "the trained tokenizer")});
  }
  return result;
}

// Ours: as `tokenize` does it. The library's: one call for a line, or for a part of 2 KiB,
// whichever is faster on this text.
void add_tokenizing(const BenchDataOptions& options, std::vector<DataBenchmark>& benchmarks) {
  constexpr size_t kTextBytes = size_t{2} << 20;
  const auto text = std::make_shared<std::string>(
      options.text.empty() ? made_up_text(kTextBytes)
                           : read_file(options.text).substr(0, kTextBytes));
  const auto lines = std::make_shared<std::vector<std::string>>(lines_of(*text));
  const auto bytes = static_cast<double>(text->size());
  for (const NamedTokenizer& named : tokenizers_of(options, *lines)) {
    const std::shared_ptr<Tokenizer> tokenizer = named.tokenizer;
    for (const std::string& line : *lines) {
      const std::vector<int32_t> ids = tokenizer->encode(line);
      if (tokenizer->decode(ids) != tokenizer->decode(tokenizer->encode_by_library(line))) {
        throw Error(Blame::bug,
                    fmt::format("tokenizing is wrong for \"{}\"; please report it", line));
      }
    }
    // One pass by a tokenizer that has seen no text yet: it remembers words.
    const auto by_us = [=] {
      const Tokenizer fresh(tokenizer->model(), named.name);
      const Clock::time_point begin = Clock::now();
      fresh.encode(*text);
      return bytes / seconds_since(begin);
    };
    const auto by_lines = [=] {
      for (const std::string& line : *lines) tokenizer->encode_by_library(line);
      return bytes;
    };
    const auto by_parts = [=] {
      for (const std::string_view part : tokenizer->split(*text)) {
        tokenizer->encode_by_library(part);
      }
      return bytes;
    };
    benchmarks.push_back({.name = "tokenize",
                          .detail = named.name,
                          .unit = "MB/s",
                          .scale = 1e6,
                          .bar = 0.95,
                          .ours = by_us,
                          .other = [=] { return std::max(rate_of(by_lines), rate_of(by_parts)); },
                          .other_name = "SentencePiece library"});
  }
}

// Shards

constexpr int64_t kVocabulary = 32768;

std::vector<int32_t> random_tokens(int64_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  uint32_t state = 1;
  for (int32_t& token : tokens) {
    state = state * 1664525U + 1013904223U;
    token = static_cast<int32_t>(state >> 17);  // below 2^15
  }
  return tokens;
}

// A corpus of one shard whose documents have these lengths.
void write_corpus(const std::string& folder, const std::vector<int64_t>& lengths) {
  int64_t total = 0;
  for (const int64_t length : lengths) total += length;
  const std::vector<int32_t> tokens = random_tokens(total);
  std::filesystem::create_directories(folder + "/train");
  ShardWriter writer(kVocabulary, std::string(kBytesTokenizer));
  size_t at = 0;
  for (const int64_t length : lengths) {
    writer.add(std::span(tokens).subspan(at, static_cast<size_t>(length)), "");
    at += static_cast<size_t>(length);
  }
  CorpusIndex index;
  index.tokenizer_digest = kBytesTokenizer;
  index.vocabulary = kVocabulary;
  index.train.push_back(writer.write(folder, "train/shard-00000.h5"));
  write_file(folder + "/" + kIndexFile, to_json(index));
}

// Exponential lengths of mean 300, as short documents of the web have them.
std::vector<int64_t> short_documents(int64_t tokens) {
  const Philox random(2, "bench.documents");
  std::vector<int64_t> lengths;
  for (uint64_t i = 0; tokens > 0; ++i) {
    const double length = 1 - 299 * std::log(1 - random.uniform(i));
    lengths.push_back(std::max<int64_t>(2, static_cast<int64_t>(length)));
    tokens -= lengths.back();
  }
  return lengths;
}

void add_packing(const WorkFolder& folder, std::vector<DataBenchmark>& benchmarks) {
  constexpr int64_t kRow = 4096;
  constexpr int64_t kRows = 64;
  constexpr double kBar = 50e6;
  const std::string path = folder / "short";
  write_corpus(path, short_documents(int64_t{16} << 20));
  DataOptions options;
  options.train.push_back({"short", path, 1.0});
  options.prefetch = 0;

  const auto corpora = std::make_shared<std::vector<Corpus>>();
  corpora->emplace_back(path);
  const auto stream = std::make_shared<RowStream>(*corpora, options, 1);
  benchmarks.push_back({.name = "pack",
                        .detail = "documents of 300 into rows of 4096",
                        .unit = "M tokens/s",
                        .scale = 1e6,
                        .bar = kBar,
                        .ours = [corpora, stream] {
                          return rate_of([&] {
                            for (int64_t row = 0; row < kRows; ++row) stream->next(kRow);
                            return static_cast<double>(kRows * kRow);
                          });
                        }});
  const auto loader = std::make_shared<Loader>(options, 1, [](const Progress&) {
    return RowPlan{kRows, kRow};
  });
  benchmarks.push_back({.name = "pack, read, batch",
                        .detail = "the same, with their tokens",
                        .unit = "M tokens/s",
                        .scale = 1e6,
                        .bar = kBar,
                        .ours = [loader] {
                          return rate_of([&] {
                            const Batch batch = loader->next();
                            return static_cast<double>(batch.tokens.size());
                          });
                        }});
}

// Random windows of 4097 tokens: a row and its last target.
void add_windows(const WorkFolder& folder, std::vector<DataBenchmark>& benchmarks) {
  constexpr uint64_t kWindow = 4097;
  constexpr int64_t kTokens = int64_t{32} << 20;
  constexpr int kBatch = 256;
  write_corpus(folder / "long", {kTokens});
  const std::string path = folder / "long/train/shard-00000.h5";
  const auto shard = std::make_shared<ShardReader>(path);
  const auto library = std::make_shared<Hdf5Reader>(path);
  auto offsets = [draw = uint64_t{0}]() mutable {
    const Philox random(3, "bench.windows");
    return random.below(draw++, static_cast<uint64_t>(kTokens) - kWindow);
  };
  shard->verify();
  std::vector<int32_t> window(kWindow);
  std::vector<int32_t> expected(kWindow);
  for (int i = 0; i < 20; ++i) {
    const uint64_t first =
        Philox(4, "bench.check").below(static_cast<uint64_t>(i), kTokens - kWindow);
    shard->read(0, static_cast<int64_t>(first), window);
    library->read_at("tokens", first, kWindow, Hdf5Type::i32, expected.data());
    SIDEWINDER_ASSERT(window == expected);
  }
  // As ids of 32 bits, as ours gives them, and once as the shard has them, which nobody trains on.
  const auto by_library = [=](Hdf5Type type) {
    return [library, offsets, type]() mutable {
      std::vector<int32_t> out(kWindow);
      return rate_of([&] {
        for (int i = 0; i < kBatch; ++i) {
          library->read_at("tokens", offsets(), kWindow, type, out.data());
        }
        return static_cast<double>(kBatch);
      });
    };
  };
  const auto by_us = [shard, offsets]() mutable {
    std::vector<int32_t> out(kWindow);
    return rate_of([&] {
      for (int i = 0; i < kBatch; ++i) shard->read(0, static_cast<int64_t>(offsets()), out);
      return static_cast<double>(kBatch);
    });
  };
  benchmarks.push_back({.name = "read windows",
                        .detail = "4097 random tokens, as 32 bits",
                        .unit = "k windows/s",
                        .scale = 1e3,
                        .bar = 5,
                        .ours = by_us,
                        .other = by_library(Hdf5Type::i32),
                        .other_name = "H5Dread"});
  benchmarks.push_back({.name = "read windows",
                        .detail = "against the library's 16 bits",
                        .unit = "k windows/s",
                        .scale = 1e3,
                        .bar = 0,
                        .ours = by_us,
                        .other = by_library(Hdf5Type::u16),
                        .other_name = "H5Dread"});
}

// Checkpoints

// State like that of 20 million parameters: 240 MiB in tensors of 4 MiB.
CheckpointContent state_of_a_run() {
  CheckpointContent content;
  content.step = 1;
  for (int i = 0; i < 60; ++i) {
    content.tensors.push_back({fmt::format("tensor.{}", i), Tensor::zeros({1 << 20}, Dtype::f32)});
  }
  return content;
}

void add_saving(const WorkFolder& folder, std::vector<DataBenchmark>& benchmarks) {
  const auto content = std::make_shared<CheckpointContent>(state_of_a_run());
  const auto copies = std::make_shared<CheckpointContent>(state_of_a_run());
  const auto saver =
      std::make_shared<BackgroundSaver>(folder / "run", CheckpointOptions{.keep_last = 1});
  saver->reserve(*content);
  double bytes = 0;
  for (const NamedTensor& entry : content->tensors) {
    bytes += static_cast<double>(entry.tensor.bytes());
  }
  benchmarks.push_back({.name = "stall by a checkpoint",
                        .detail = fmt::format("state of {:.0f} MB, against a copy", bytes / 1e6),
                        .unit = "GB/s",
                        .scale = 1e9,
                        .bar = 1 / 1.5,
                        .ours =
                            [=] {
                              saver->finish();
                              const Clock::time_point begin = Clock::now();
                              saver->save(*content);
                              const double seconds = seconds_since(begin);
                              saver->finish();
                              return bytes / seconds;
                            },
                        .other =
                            [=] {
                              const Clock::time_point begin = Clock::now();
                              for (size_t i = 0; i < copies->tensors.size(); ++i) {
                                copies->tensors[i].tensor.copy_from(content->tensors[i].tensor);
                              }
                              return bytes / seconds_since(begin);
                            },
                        .other_name = "copy"});
}

std::vector<DataBenchmark> chosen(const BenchDataOptions& options, const WorkFolder& folder) {
  const auto wanted = [&](const std::string& name) {
    return options.only.empty() ||
           std::any_of(options.only.begin(), options.only.end(), [&](const std::string& part) {
             return name.find(part) != std::string::npos;
           });
  };
  std::vector<DataBenchmark> benchmarks;
  if (wanted("tokenize")) add_tokenizing(options, benchmarks);
  if (wanted("pack") || wanted("pack, read, batch")) add_packing(folder, benchmarks);
  if (wanted("read windows")) add_windows(folder, benchmarks);
  if (wanted("stall by a checkpoint")) add_saving(folder, benchmarks);
  std::erase_if(benchmarks, [&](const DataBenchmark& b) { return !wanted(b.name); });
  SIDEWINDER_REQUIRE(
      !benchmarks.empty(),
      "bench data: nothing has \"{}\" in its name; there are: tokenize, pack, \"pack, "
      "read, batch\", read windows, stall by a checkpoint",
      options.only.front());
  return benchmarks;
}

}  // namespace

ExitCode bench_data(const BenchDataOptions& options) {
  const WorkFolder folder;
  const std::vector<DataBenchmark> benchmarks = chosen(options, folder);
  fmt::print("One thread (the copy: {}); everything read is in memory already\n\n",
             ThreadPool::global().num_threads());
  fmt::print("{:<22} {:<34} {:>18} {:>18} {:>8} {:>7}\n", "what", "", "rate", "other's", "ratio",
             "bar");
  nlohmann::json report = nlohmann::json::array();
  int below = 0;
  for (const DataBenchmark& benchmark : benchmarks) {
    const Result result = measure(benchmark);
    print_result(result);
    if (!result.good()) ++below;
    report.push_back({{"name", benchmark.name},
                      {"detail", benchmark.detail},
                      {"unit", benchmark.unit},
                      {"rate", result.ours / benchmark.scale},
                      {"bar", benchmark.other ? benchmark.bar : benchmark.bar / benchmark.scale},
                      {"verdict", result.good() ? "ok" : "below"}});
    if (benchmark.other) {
      report.back()["other"] = benchmark.other_name;
      report.back()["others_rate"] = result.other / benchmark.scale;
      report.back()["ratio"] = result.figure();
    }
  }
  if (below > 0) fmt::print("\n{} of {} are below their bar\n", below, benchmarks.size());
  if (!options.json_path.empty()) write_text_file(options.json_path, report.dump(2));
  return options.check && below > 0 ? ExitCode::below_bar : ExitCode::success;
}

}  // namespace sidewinder
