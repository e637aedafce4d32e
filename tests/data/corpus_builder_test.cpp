#include "data/corpus_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "data/files.h"
#include "kernels/base/digest.h"
#include "kernels/base/error.h"
#include "kernels/base/philox.h"
#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TemporaryFolder;

std::string words(uint64_t seed, int64_t count) {
  const std::vector<std::string> list = {"sea",   "ship", "whale", "captain", "night",
                                         "water", "boat", "the",   "a",       "of"};
  const Philox philox(seed, "words");
  std::string text;
  for (int64_t i = 0; i < count; ++i) {
    text += list[philox.below(static_cast<uint64_t>(i), list.size())];
    text += i % 11 == 10 ? ".\n" : " ";
  }
  return text;
}

// 40 documents in files and records, with two duplicates.
void write_texts(const std::string& folder) {
  fs::create_directories(folder + "/sub");
  for (uint64_t i = 0; i < 20; ++i) {
    write_file(folder + "/sub/" + std::to_string(i) + ".txt",
               words(i, 20 + static_cast<int64_t>(i * i) * 3));
  }
  std::string records;
  for (uint64_t i = 0; i < 18; ++i) {
    records += "{\"text\": \"record " + std::to_string(i) + " of a list\"}\n";
  }
  write_file(folder + "/list.jsonl", records + "{\"text\": \"record 3 of a list\"}\n");
  write_file(folder + "/copy.txt", words(5, 20 + 75));
}

CorpusBuildOptions options_for(const std::string& input, const std::string& output) {
  CorpusBuildOptions options;
  options.inputs = {input};
  options.output = output;
  options.training.vocabulary = 320;
  options.training.kind = TokenizerKind::bpe;
  options.hold_out = 0.2;
  options.shard_tokens = 700;
  return options;
}

void ignore(const CorpusBuildProgress& /*progress*/) {}

// Every file of a folder and its content.
std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().filename() != ".lock") {
      files[entry.path().lexically_relative(folder).string()] = read_file(entry.path().string());
    }
  }
  return files;
}

TEST(CorpusBuilder, HoldsEveryDocumentOnceInItsPart) {
  const TemporaryFolder folder;
  write_texts(folder / "text");
  const auto result = build_corpus(options_for(folder / "text", folder / "out"), ignore);
  EXPECT_EQ(result.duplicates, 2);
  EXPECT_GE(result.index.train.size(), 3U);
  const auto tokenizer = load_tokenizer(folder / "out/tokenizer.model");
  EXPECT_EQ(tokenizer->digest(), result.index.tokenizer_digest);

  // What the two parts should hold, by the names' hashes.
  std::map<std::string, std::vector<std::string>> expected;
  TextReader reader(find_text_files({folder / "text"}), {});
  std::vector<std::string> seen;
  while (const auto document = reader.next()) {
    if (std::find(seen.begin(), seen.end(), document->text) != seen.end()) continue;
    seen.push_back(document->text);
    const double place = static_cast<double>(digest64(document->name) >> 11) * 0x1p-53;
    expected[place < 0.2 ? "validation" : "train"].push_back(document->text);
  }
  ASSERT_EQ(seen.size(), 38U);
  ASSERT_GE(expected["validation"].size(), 2U);
  for (const auto& [part, texts] : expected) {
    Corpus corpus(folder / "out/" + part);
    ASSERT_EQ(corpus.documents(), static_cast<int64_t>(texts.size()));
    for (int64_t i = 0; i < corpus.documents(); ++i) {
      const std::string& text = texts[static_cast<size_t>(i)];
      std::vector<int32_t> ids(static_cast<size_t>(corpus.document_length(i)));
      corpus.read(i, 0, ids);
      EXPECT_EQ(ids.back(), tokenizer->eos());
      EXPECT_EQ(tokenizer->decode(ids), text);
      ids.pop_back();
      EXPECT_EQ(ids, tokenizer->encode(text));
      EXPECT_EQ(corpus.document_bytes(i), static_cast<int64_t>(text.size()));
    }
  }
}

TEST(CorpusBuilder, KeepsDuplicatesWhereTheyAreWanted) {
  const TemporaryFolder folder;
  write_texts(folder / "text");
  CorpusBuildOptions options = options_for(folder / "text", folder / "out");
  options.tokenizer = "bytes";
  const auto documents = [](const CorpusBuildResult& result) {
    int64_t sum = 0;
    for (const auto* part : {&result.index.train, &result.index.validation}) {
      for (const ShardRecord& shard : *part) sum += shard.documents;
    }
    return sum;
  };
  EXPECT_EQ(documents(build_corpus(options, ignore)), 38);
  options.keep_duplicates = true;
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }),
              HasSubstr("made from other texts or with other options"));
  options.output = folder / "all";
  const auto all = build_corpus(options, ignore);
  EXPECT_EQ(documents(all), 40);
  EXPECT_EQ(all.duplicates, 0);
}

TEST(CorpusBuilder, SpecialIdsFollowThePolicy) {
  const TemporaryFolder folder;
  write_file(folder / "x.txt", "abc");
  CorpusBuildOptions options = options_for(folder / "x.txt", folder / "out");
  options.tokenizer = "bytes";
  options.hold_out = 0;
  const auto first_document = [&](const std::string& bos, const std::string& eos) {
    fs::remove_all(folder / "out");
    options.bos = bos;
    options.eos = eos;
    build_corpus(options, ignore);
    Corpus corpus(folder / "out");
    std::vector<int32_t> ids(static_cast<size_t>(corpus.document_length(0)));
    corpus.read(0, 0, ids);
    return ids;
  };
  EXPECT_EQ(first_document("none", ""), (std::vector<int32_t>{97, 98, 99}));
  EXPECT_EQ(first_document("1", "0"), (std::vector<int32_t>{1, 97, 98, 99, 0}));
  EXPECT_THAT(message_of([&] { first_document("none", "model"); }),
              HasSubstr("--eos model: the tokenizer has no such id"));
  EXPECT_THAT(message_of([&] { first_document("256", "none"); }),
              HasSubstr("--bos is \"256\"; it must be none, model, or an id below"));
  EXPECT_THAT(message_of([&] { first_document("1x", "none"); }), HasSubstr("--bos is \"1x\""));
}

TEST(CorpusBuilder, AFinishedCorpusIsLeftAlone) {
  const TemporaryFolder folder;
  write_texts(folder / "text");
  CorpusBuildOptions options = options_for(folder / "text", folder / "out");
  const auto first = build_corpus(options, ignore);
  const auto before = contents(folder / "out");
  const auto again = build_corpus(options, ignore);
  EXPECT_TRUE(again.was_complete);
  EXPECT_EQ(again.index.train, first.index.train);
  EXPECT_EQ(contents(folder / "out"), before);
  options.hold_out = 0.5;
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }),
              HasSubstr("made from other texts or with other options"));
  options.hold_out = 0.2;
  write_file(folder / "text/new.txt", "one more");
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }),
              HasSubstr("made from other texts or with other options"));
  EXPECT_EQ(contents(folder / "out"), before);
}

// Runs a build in a child process that is killed when the output folder holds `files` shards.
void build_and_kill(const CorpusBuildOptions& options, size_t shards) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    try {
      build_corpus(options, ignore);
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  for (;;) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) == child) return;  // it was quicker
    size_t found = 0;
    std::error_code ignored;
    for (const char* part : {"/train", "/validation"}) {
      for (auto entry = fs::directory_iterator(options.output + part, ignored);
           entry != fs::directory_iterator(); entry.increment(ignored)) {
        if (entry->path().extension() == ".h5") ++found;
      }
    }
    if (found >= shards) break;
    ::usleep(200);
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST(CorpusBuilder, ContinuesAfterBeingKilledWithTheSameBytes) {
  const testing::OneThread one_thread;
  const TemporaryFolder folder;
  write_texts(folder / "text");
  CorpusBuildOptions options = options_for(folder / "text", folder / "whole");
  options.tokenizer = "bytes";
  options.shard_tokens = 300;
  const auto whole = build_corpus(options, ignore);
  const auto expected = contents(folder / "whole");
  ASSERT_GE(expected.size(), 15U);
  int64_t kept = 0;
  for (size_t shards = 0; shards < expected.size(); shards += 3) {
    options.output = folder / "out" + std::to_string(shards);
    build_and_kill(options, shards);
    kept += build_corpus(options, ignore).kept_shards;
    EXPECT_EQ(contents(options.output), expected) << "killed after " << shards << " shards";
  }
  EXPECT_GT(kept, 0);
}

TEST(CorpusBuilder, ContinuesAfterAnErrorWithTheTrainedTokenizer) {
  const TemporaryFolder folder;
  write_texts(folder / "text");
  CorpusBuildOptions options = options_for(folder / "text", folder / "whole");
  build_corpus(options, ignore);
  const auto expected = contents(folder / "whole");
  options.output = folder / "out";
  // Stop after the tokenizer and the first shards.
  int reports = 0;
  EXPECT_THROW(build_corpus(options,
                            [&](const CorpusBuildProgress& progress) {
                              if (progress.stage == "tokenizing") throw Error(Blame::bug, "stop");
                              ++reports;
                            }),
               Error);
  EXPECT_GT(reports, 0);
  EXPECT_FALSE(fs::exists(folder / "out/index.json"));
  EXPECT_TRUE(fs::exists(folder / "out/partial.json"));
  bool trained = false;
  const auto result = build_corpus(options, [&](const CorpusBuildProgress& progress) {
    trained = trained || progress.stage == "training the tokenizer";
  });
  EXPECT_FALSE(trained);
  EXPECT_GT(result.kept_shards, 0);
  EXPECT_EQ(contents(folder / "out"), expected);
}

TEST(CorpusBuilder, NoticesTextsThatChangedWhileItWasInterrupted) {
  const TemporaryFolder folder;
  write_texts(folder / "text");
  CorpusBuildOptions options = options_for(folder / "text", folder / "out");
  EXPECT_THROW(build_corpus(options,
                            [&](const CorpusBuildProgress& progress) {
                              if (progress.stage == "tokenizing") throw Error(Blame::bug, "stop");
                            }),
               Error);
  std::string text = read_file(folder / "text/sub/19.txt");
  text[0] = 'X';  // the same length
  write_file(folder / "text/sub/19.txt", text);
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }),
              HasSubstr("the texts have changed since this shard was made"));
}

// A build that may write files of at most `bytes`; its exit code.
int build_with_limit(const CorpusBuildOptions& options, rlim_t bytes) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);  // writes then fail with EFBIG, as they do with ENOSPC
    const rlimit limit = {bytes, bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int code = 0;
    try {
      build_corpus(options, ignore);
    } catch (const Error& error) {
      code = static_cast<int>(error.exit_code());
    } catch (...) {
      code = 1;
    }
    ::_exit(code);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

TEST(CorpusBuilder, AFullDiskLeavesNothingHalfWritten) {
  const testing::OneThread one_thread;
  const TemporaryFolder folder;
  write_texts(folder / "text");
  CorpusBuildOptions options = options_for(folder / "text", folder / "whole");
  options.tokenizer = "bytes";
  options.shard_tokens = 6000;
  build_corpus(options, ignore);
  const auto expected = contents(folder / "whole");
  uint64_t largest = 0;
  for (const auto& [name, content] : expected)
    largest = std::max<uint64_t>(largest, content.size());
  options.output = folder / "out";
  int failures = 0;
  for (uint64_t limit = 0; limit < largest; limit += largest / 40) {
    EXPECT_EQ(build_with_limit(options, limit), static_cast<int>(ExitCode::environment));
    ++failures;
    for (const auto& [name, content] : contents(folder / "out")) {
      // What is there is whole.
      if (name != "partial.json") {
        EXPECT_EQ(expected.at(name), content) << name;
      }
    }
    EXPECT_FALSE(fs::exists(folder / "out/index.json"));
  }
  EXPECT_GE(failures, 40);
  build_corpus(options, ignore);
  EXPECT_EQ(contents(folder / "out"), expected);
}

TEST(CorpusBuilder, TwoBuildsDoNotShareAFolder) {
  const TemporaryFolder folder;
  write_texts(folder / "text");
  const CorpusBuildOptions options = options_for(folder / "text", folder / "out");
  std::string message;
  build_corpus(options, [&](const CorpusBuildProgress&) {
    if (message.empty()) {
      message = message_of([&] { build_corpus(options, ignore); });
    }
  });
  EXPECT_THAT(message, HasSubstr("another process is making a corpus in this folder"));
}

TEST(CorpusBuilder, BadInputLeavesNoCorpus) {
  const TemporaryFolder folder;
  write_file(folder / "text.txt", "bad \xff text");
  CorpusBuildOptions options = options_for(folder / "text.txt", folder / "out");
  options.tokenizer = "bytes";
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }, ExitCode::environment),
              HasSubstr("text.txt: byte 4 (0xff) is not valid UTF-8"));
  EXPECT_FALSE(fs::exists(folder / "out/index.json"));
  write_file(folder / "text.txt", "");
  fs::remove_all(folder / "out");
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }),
              HasSubstr("hold no document for training (1 empty"));
  options.inputs = {folder / "none"};
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }, ExitCode::environment),
              HasSubstr("no such file or folder"));
  write_texts(folder / "text");
  options.inputs = {folder / "text"};
  for (const char* output : {"text", "text/out", "text/sub/../out/deep"}) {
    options.output = folder / output;
    EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }),
                HasSubstr("lies in the input folder"));
  }
  options.inputs = {folder / "text.txt"};
  options.output = folder / "text.txt/out";
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }, ExitCode::environment),
              HasSubstr("cannot create the folder"));
}

TEST(CorpusBuilder, ShortTextsAreJoinedWithinTheirPart) {
  const TemporaryFolder folder;
  write_texts(folder / "texts");
  CorpusBuildOptions options = options_for(folder / "texts", folder / "apart");
  options.tokenizer = "bytes";
  options.bos = "1";
  options.eos = "2";
  const CorpusBuildResult apart = build_corpus(options, ignore);
  options.output = folder / "joined";
  options.join_bytes = 500;
  const CorpusBuildResult joined = build_corpus(options, ignore);
  for (const char* part : {"train", "validation"}) {
    const auto documents_of = [&](const std::string& corpus) {
      std::vector<std::vector<int32_t>> documents;
      Corpus opened(folder / (corpus + "/" + part));
      for (int64_t i = 0; i < opened.documents(); ++i) {
        documents.emplace_back(static_cast<size_t>(opened.document_length(i)));
        opened.read(i, 0, documents.back());
      }
      return documents;
    };
    const auto texts = documents_of("apart");
    const auto documents = documents_of("joined");
    EXPECT_LT(documents.size(), texts.size());
    // The same tokens in the same order, and only the last document may be short.
    std::vector<int32_t> all_texts;
    std::vector<int32_t> all_documents;
    for (const auto& text : texts) all_texts.insert(all_texts.end(), text.begin(), text.end());
    for (size_t i = 0; i < documents.size(); ++i) {
      all_documents.insert(all_documents.end(), documents[i].begin(), documents[i].end());
      EXPECT_TRUE(documents[i].size() >= 500 || i + 1 == documents.size());
    }
    EXPECT_EQ(all_documents, all_texts);
  }
  // An earlier corpus of these texts is another one.
  options.join_bytes = 600;
  EXPECT_THAT(message_of([&] { build_corpus(options, ignore); }),
              HasSubstr("made from other texts or with other options"));
  EXPECT_EQ(joined.index.train.empty(), apart.index.train.empty());
}

}  // namespace
}  // namespace sidewinder
