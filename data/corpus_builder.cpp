#include "data/corpus_builder.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <queue>
#include <unordered_set>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/digest.h"
#include "kernels/base/thread_pool.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using Report = std::function<void(const CorpusBuildProgress&)>;

constexpr const char* kPartialFile = "partial.json";
constexpr size_t kBatchBytes = size_t{8} << 20;  // of text tokenized together

struct DigestHash {
  size_t operator()(const Digest128& digest) const { return digest.low; }
};

// The documents that go into the corpus: duplicates left out unless they are wanted, each assigned
// to its part, short ones joined.
class DocumentStream {
 public:
  struct Document {
    std::string text;
    std::vector<size_t> ends;  // of the texts that were joined; the last is text.size()
    Digest128 digest;
    bool held_out = false;
  };

  DocumentStream(const std::vector<TextFile>& files, const CorpusBuildOptions& options)
      : reader_(files, options.text),
        hold_out_(options.hold_out),
        join_bytes_(static_cast<size_t>(options.join_bytes)),
        keep_duplicates_(options.keep_duplicates) {}

  std::optional<Document> next() {
    while (std::optional<TextDocument> found = reader_.next()) {
      if (!keep_duplicates_ && !seen_.insert(digest128(found->text)).second) {
        ++duplicates_;
        continue;
      }
      const double place = static_cast<double>(digest64(found->name) >> 11) * 0x1p-53;
      const bool held_out = place < hold_out_;
      Document& document = unfinished_[held_out ? 1 : 0];
      document.held_out = held_out;
      document.text += found->text;
      document.ends.push_back(document.text.size());
      ++documents_;
      if (held_out) ++held_out_documents_;
      text_bytes_ += found->text.size();
      if (document.text.size() >= join_bytes_) return finished(document);
    }
    for (Document& document : unfinished_) {
      if (!document.ends.empty()) return finished(document);
    }
    return std::nullopt;
  }

  int64_t duplicates() const { return duplicates_; }
  int64_t held_out() const { return held_out_documents_; }
  const TextCounts& counts() const { return reader_.counts(); }
  CorpusBuildProgress progress(const std::string& stage) const {
    return {stage, documents_, text_bytes_, reader_.file_bytes_read(), reader_.file_bytes_total()};
  }

 private:
  static Document finished(Document& document) {
    document.digest = digest128(document.text);
    return std::exchange(document, {});
  }

  TextReader reader_;
  double hold_out_;
  size_t join_bytes_;
  bool keep_duplicates_;
  Document unfinished_[2];  // of training and validation
  std::unordered_set<Digest128, DigestHash> seen_;
  int64_t duplicates_ = 0;
  int64_t documents_ = 0;
  int64_t held_out_documents_ = 0;
  uint64_t text_bytes_ = 0;
};

// Pieces of at most kLongestSample bytes, cut after white space where there is some.
std::vector<std::string_view> cut_samples(std::string_view text) {
  std::vector<std::string_view> samples;
  while (!text.empty()) {
    size_t length = std::min(text.size(), kLongestSample);
    if (length < text.size()) {
      const size_t space = text.find_last_of(" \n", length - 1);
      if (space != std::string_view::npos && space > kLongestSample / 2) {
        length = space + 1;
      } else {
        while ((static_cast<unsigned char>(text[length]) & 0xc0U) == 0x80) --length;
      }
    }
    samples.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return samples;
}

// A sample of the training documents that does not depend on anything but the texts: of all pieces,
// those with the smallest digests, in the order in which they occur.
std::vector<std::string> sample_text(const std::vector<TextFile>& files,
                                     const CorpusBuildOptions& options, const Report& report) {
  struct Sample {
    uint64_t key = 0;
    int64_t place = 0;
    std::string text;
    bool operator<(const Sample& other) const {
      return std::tie(key, place) < std::tie(other.key, other.place);
    }
  };
  std::priority_queue<Sample> chosen;  // the largest key on top
  int64_t bytes = 0;
  int64_t place = 0;
  CorpusBuildOptions apart = options;
  apart.join_bytes = 0;
  DocumentStream stream(files, apart);
  while (const auto document = stream.next()) {
    if (document->held_out) continue;
    for (const std::string_view piece : cut_samples(document->text)) {
      const Sample sample{digest64(piece), place++, std::string(piece)};
      if (bytes >= options.sample_bytes && !chosen.empty() && !(sample < chosen.top())) continue;
      bytes += static_cast<int64_t>(piece.size());
      chosen.push(sample);
      while (bytes > options.sample_bytes && chosen.size() > 1) {
        bytes -= static_cast<int64_t>(chosen.top().text.size());
        chosen.pop();
      }
    }
    report(stream.progress("reading for the tokenizer"));
  }
  SIDEWINDER_REQUIRE(!chosen.empty(),
                     "the inputs hold no text to train a tokenizer on ({} documents are empty, {} "
                     "invalid and skipped, {} held out); name files with text, or lower --hold-out",
                     stream.counts().empty, stream.counts().skipped, stream.held_out());
  std::vector<Sample> samples;
  samples.reserve(chosen.size());
  for (; !chosen.empty(); chosen.pop()) samples.push_back(chosen.top());
  std::sort(samples.begin(), samples.end(),
            [](const Sample& a, const Sample& b) { return a.place < b.place; });
  std::vector<std::string> texts;
  texts.reserve(samples.size());
  for (Sample& sample : samples) texts.push_back(std::move(sample.text));
  return texts;
}

// One part of the corpus while it is being written.
class Part {
 public:
  Part(std::string name, std::vector<ShardRecord> finished, const std::string& output,
       const Tokenizer& tokenizer)
      : name_(std::move(name)),
        output_(output),
        shards_(std::move(finished)),
        to_check_(shards_.size()),
        writer_(tokenizer.vocabulary(), tokenizer.digest()) {}

  // Whether a finished shard holds the next document. Checks that it is the same document as when
  // the shard was made.
  bool skip(const Digest128& digest) {
    if (checked_ == to_check_) return false;
    digests_.append(reinterpret_cast<const char*>(&digest), sizeof digest);
    const ShardRecord& shard = shards_[checked_];
    if (static_cast<int64_t>(digests_.size() / sizeof digest) == shard.documents) {
      SIDEWINDER_REQUIRE(
          digest_of(digests_) == shard.text_digest,
          "{}/{}: the texts have changed since this shard was made; remove the folder "
          "{} to start again",
          output_, shard.file, output_);
      digests_.clear();
      ++checked_;
    }
    return true;
  }

  void add(std::span<const int32_t> tokens, std::string_view text) { writer_.add(tokens, text); }
  int64_t tokens() const { return writer_.tokens(); }

  void write_shard() {
    fs::create_directories(fs::path(output_) / name_);
    shards_.push_back(
        writer_.write(output_, fmt::format("{}/shard-{:05d}.h5", name_, shards_.size())));
  }
  void finish() {
    SIDEWINDER_REQUIRE(checked_ == to_check_,
                       "{}: finished shards hold more documents than the inputs do now; remove the "
                       "folder to start again",
                       output_);
    if (writer_.documents() > 0) write_shard();
  }
  const std::vector<ShardRecord>& shards() const { return shards_; }

 private:
  std::string name_;
  const std::string& output_;
  std::vector<ShardRecord> shards_;
  size_t to_check_;
  size_t checked_ = 0;
  std::string digests_;
  ShardWriter writer_;
};

// Holds the output folder against a second process.
class OutputLock {
 public:
  explicit OutputLock(const std::string& folder) {
    const std::string path = folder + "/.lock";
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) {
      fail_environment("{}: cannot create the file: {}", path, std::strerror(errno));
    }
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(descriptor_);
      fail_user(
          "{}: another process is making a corpus in this folder; wait for it or choose "
          "another --output",
          folder);
    }
  }
  ~OutputLock() { ::close(descriptor_); }
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  int descriptor_ = -1;
};

void check_options(const CorpusBuildOptions& options) {
  SIDEWINDER_REQUIRE(!options.output.empty(), "name the output folder with --output");
  SIDEWINDER_REQUIRE(options.hold_out >= 0 && options.hold_out < 1,
                     "--hold-out is {}; it must be from 0 (none) to below 1", options.hold_out);
  SIDEWINDER_REQUIRE(options.shard_tokens >= 1, "--shard-tokens is {}; it must be at least 1",
                     options.shard_tokens);
  SIDEWINDER_REQUIRE(options.join_bytes >= 0, "--join-bytes is {}; it must be 0 (none) or more",
                     options.join_bytes);
  SIDEWINDER_REQUIRE(options.sample_bytes >= 1, "--sample-mib must be at least 1");
}

// A corpus below a folder of texts would be read as text the next time.
void check_apart(const CorpusBuildOptions& options) {
  const fs::path output = fs::weakly_canonical(fs::absolute(options.output));
  for (const std::string& input : options.inputs) {
    if (!fs::is_directory(input)) continue;
    const fs::path folder = fs::canonical(input);
    SIDEWINDER_REQUIRE(
        std::mismatch(folder.begin(), folder.end(), output.begin(), output.end()).first !=
            folder.end(),
        "the output folder {} lies in the input folder {}; choose another --output", options.output,
        input);
  }
}

std::string settings_of(const CorpusBuildOptions& options, const std::vector<TextFile>& files) {
  Digest list;
  uint64_t bytes = 0;
  for (const TextFile& file : files) {
    const std::string entry = fmt::format("{}\n{}\n", file.name, file.bytes);
    list.update(entry);
    bytes += file.bytes;
  }
  const char* const invalid[] = {"error", "replace", "skip"};
  nlohmann::json value = {{"files", files.size()},
                          {"file_bytes", bytes},
                          {"file_list_digest", list.text()},
                          {"field", options.text.field},
                          {"invalid", invalid[static_cast<size_t>(options.text.invalid)]},
                          {"bos", options.bos},
                          {"eos", options.eos},
                          {"hold_out", options.hold_out},
                          {"shard_tokens", options.shard_tokens}};
  if (options.join_bytes > 0) value["join_bytes"] = options.join_bytes;
  if (options.keep_duplicates) value["keep_duplicates"] = true;
  if (options.tokenizer.empty()) {
    value["tokenizer"] = {{"kind", options.training.kind == TokenizerKind::bpe ? "bpe" : "unigram"},
                          {"vocabulary", options.training.vocabulary},
                          {"sample_bytes", options.sample_bytes}};
  } else if (options.tokenizer == kBytesTokenizer) {
    value["tokenizer"] = "bytes";
  } else {
    value["tokenizer"] = digest_of(read_file(options.tokenizer));
  }
  return value.dump();
}

// "none", "model" or an id, as an id or −1.
int64_t special_id(const std::string& choice, const std::string& key, const Tokenizer& tokenizer,
                   std::optional<int32_t> of_model) {
  if (choice == "none") return -1;
  if (choice == "model") {
    SIDEWINDER_REQUIRE(of_model.has_value(),
                       "--{} model: the tokenizer has no such id; choose an id or none", key);
    return *of_model;
  }
  int64_t id = -1;
  size_t used = 0;
  try {
    id = std::stoll(choice, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  SIDEWINDER_REQUIRE(used == choice.size() && id >= 0 && id < tokenizer.vocabulary(),
                     "--{} is \"{}\"; it must be none, model, or an id below the vocabulary of {}",
                     key, choice, tokenizer.vocabulary());
  return id;
}

// Documents read and tokenized together.
struct Work {
  struct Part {
    size_t document = 0;
    bool begins_text = false;
    std::string_view text;
  };
  std::vector<DocumentStream::Document> documents;
  std::vector<Part> parts;
  std::vector<std::vector<int32_t>> ids;  // of the parts
};

class Builder {
 public:
  Builder(const CorpusBuildOptions& options, const Report& report)
      : options_(options), report_(report) {}

  CorpusBuildResult run() {
    check_options(options_);
    files_ = find_text_files(options_.inputs);
    check_apart(options_);
    settings_ = settings_of(options_, files_);
    std::error_code problem;
    fs::create_directories(options_.output, problem);
    if (problem) {
      fail_environment("{}: cannot create the folder: {}", options_.output, problem.message());
    }
    const OutputLock lock(options_.output);
    if (const auto complete = earlier(kIndexFile)) {
      CorpusBuildResult result;
      result.index = *complete;
      result.was_complete = true;
      fs::remove(path(kPartialFile));
      return result;
    }
    const std::optional<CorpusIndex> partial = earlier(kPartialFile);
    const std::unique_ptr<Tokenizer> tokenizer =
        partial ? reopen_tokenizer(*partial) : make_tokenizer();
    if (partial) {
      index_ = *partial;
    } else {
      start_index(*tokenizer);
    }
    return tokenize(*tokenizer);
  }

 private:
  std::string path(const char* name) const { return options_.output + "/" + name; }

  // The index that an earlier run left, if it was made in the same way.
  std::optional<CorpusIndex> earlier(const char* name) const {
    if (!fs::exists(path(name))) return std::nullopt;
    const CorpusIndex index = index_from_json(read_file(path(name)), path(name));
    SIDEWINDER_REQUIRE(
        index.settings == settings_,
        "{}: there is a corpus made from other texts or with other options; remove it "
        "or choose another --output\n  there: {}\n  now:   {}",
        options_.output, index.settings, settings_);
    return index;
  }

  std::unique_ptr<Tokenizer> reopen_tokenizer(const CorpusIndex& index) const {
    if (index.tokenizer_digest == kBytesTokenizer) return std::make_unique<Tokenizer>();
    return load_tokenizer(path(kTokenizerFile), index.tokenizer_digest);
  }

  std::unique_ptr<Tokenizer> make_tokenizer() {
    if (options_.tokenizer == kBytesTokenizer) return std::make_unique<Tokenizer>();
    std::unique_ptr<Tokenizer> tokenizer;
    if (options_.tokenizer.empty()) {
      const std::vector<std::string> samples = sample_text(files_, options_, report_);
      report_({.stage = "training the tokenizer"});
      tokenizer = std::make_unique<Tokenizer>(train_tokenizer(samples, options_.training),
                                              "the trained tokenizer");
    } else {
      tokenizer = load_tokenizer(options_.tokenizer);
    }
    write_file(path(kTokenizerFile), tokenizer->model());
    return tokenizer;
  }

  void start_index(const Tokenizer& tokenizer) {
    index_.tokenizer_digest = tokenizer.digest();
    index_.vocabulary = tokenizer.vocabulary();
    index_.bos = special_id(options_.bos, "bos", tokenizer, tokenizer.bos());
    const std::string eos =
        !options_.eos.empty() ? options_.eos : (tokenizer.is_bytes() ? "none" : "model");
    index_.eos = special_id(eos, "eos", tokenizer, tokenizer.eos());
    index_.settings = settings_;
    write_file(path(kPartialFile), to_json(index_));
  }

  CorpusBuildResult tokenize(const Tokenizer& tokenizer) {
    CorpusBuildResult result;
    result.kept_shards = static_cast<int64_t>(index_.train.size() + index_.validation.size());
    Part train("train", index_.train, options_.output, tokenizer);
    Part validation("validation", index_.validation, options_.output, tokenizer);
    DocumentStream stream(files_, options_);

    const auto read = [&] {
      Work work;
      size_t bytes = 0;
      while (bytes < kBatchBytes) {
        auto document = stream.next();
        if (!document) break;
        Part& part = document->held_out ? validation : train;
        if (part.skip(document->digest)) continue;
        bytes += document->text.size();
        work.documents.push_back(std::move(*document));
      }
      for (size_t i = 0; i < work.documents.size(); ++i) {
        size_t begin = 0;
        for (const size_t end : work.documents[i].ends) {
          bool begins_text = true;
          const std::string_view whole = work.documents[i].text;
          for (const std::string_view text : tokenizer.split(whole.substr(begin, end - begin))) {
            work.parts.push_back({i, std::exchange(begins_text, false), text});
          }
          begin = end;
        }
      }
      work.ids.resize(work.parts.size());
      return work;
    };
    for (Work work = read(); !work.documents.empty();) {
      // While the others tokenize, one thread reads what comes next.
      Work next;
      parallel_for(static_cast<int64_t>(work.parts.size()) + 1, [&](int64_t item) {
        if (item == 0) {
          next = read();
        } else {
          const auto i = static_cast<size_t>(item - 1);
          tokenizer.encode_part(work.parts[i].text, work.ids[i]);
        }
      });
      write(work, train, validation);
      report_(stream.progress("tokenizing"));
      work = std::move(next);
    }
    train.finish();
    validation.finish();
    index_.train = train.shards();
    index_.validation = validation.shards();
    SIDEWINDER_REQUIRE(
        !index_.train.empty(),
        "the inputs hold no document for training ({} empty, {} invalid and skipped, {} held out); "
        "name files with text, or lower --hold-out",
        stream.counts().empty, stream.counts().skipped, stream.held_out());
    write_file(path(kIndexFile), to_json(index_));
    fs::remove(path(kPartialFile));
    result.index = index_;
    result.text = stream.counts();
    result.duplicates = stream.duplicates();
    return result;
  }

  void write(const Work& work, Part& train, Part& validation) {
    std::vector<int32_t> tokens;
    size_t next_part = 0;
    for (size_t i = 0; i < work.documents.size(); ++i) {
      tokens.clear();
      for (; next_part < work.parts.size() && work.parts[next_part].document == i; ++next_part) {
        if (work.parts[next_part].begins_text) {
          if (index_.eos >= 0 && !tokens.empty())
            tokens.push_back(static_cast<int32_t>(index_.eos));
          if (index_.bos >= 0) tokens.push_back(static_cast<int32_t>(index_.bos));
        }
        tokens.insert(tokens.end(), work.ids[next_part].begin(), work.ids[next_part].end());
      }
      if (index_.eos >= 0) tokens.push_back(static_cast<int32_t>(index_.eos));
      Part& part = work.documents[i].held_out ? validation : train;
      part.add(tokens, work.documents[i].text);
      if (part.tokens() >= options_.shard_tokens) {
        part.write_shard();
        index_.train = train.shards();
        index_.validation = validation.shards();
        write_file(path(kPartialFile), to_json(index_));
      }
    }
  }

  const CorpusBuildOptions& options_;
  const Report& report_;
  std::vector<TextFile> files_;
  std::string settings_;
  CorpusIndex index_;
};

}  // namespace

CorpusBuildResult build_corpus(const CorpusBuildOptions& options, const Report& progress) {
  return Builder(options, progress).run();
}

}  // namespace sidewinder
