#include "data/text_reader.h"

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kReplacement = "\xef\xbf\xbd";    // U+FFFD
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";  // not part of the text

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool is_json_lines(std::string name) {
  for (const char* packed : {".gz", ".xz", ".zst"}) {
    if (ends_with(name, packed)) {
      name.resize(name.size() - std::strlen(packed));
      break;
    }
  }
  return ends_with(name, ".jsonl");
}

TextFile text_file(const fs::path& path, const std::string& name) {
  return {path.string(), name, fs::file_size(path), is_json_lines(name)};
}

void add_folder(const fs::path& folder, std::vector<TextFile>& files) {
  std::vector<TextFile> found;
  for (auto entry = fs::recursive_directory_iterator(folder);
       entry != fs::recursive_directory_iterator(); ++entry) {
    const std::string leaf = entry->path().filename().string();
    if (!leaf.empty() && leaf[0] == '.') {
      if (entry->is_directory()) entry.disable_recursion_pending();
      continue;
    }
    if (!entry->is_regular_file()) continue;
    found.push_back(text_file(entry->path(), entry->path().lexically_relative(folder).string()));
  }
  std::sort(found.begin(), found.end(),
            [](const TextFile& a, const TextFile& b) { return a.name < b.name; });
  files.insert(files.end(), found.begin(), found.end());
}

// Length of the valid character at the start of `text`, 0 if there is none.
size_t valid_character(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0U) == 0x80; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return follows(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    if (!follows(1) || !follows(2)) return 0;
    if (lead == 0xe0 && byte(1) < 0xa0) return 0;  // overlong
    if (lead == 0xed && byte(1) > 0x9f) return 0;  // surrogate
    return 3;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    if (!follows(1) || !follows(2) || !follows(3)) return 0;
    if (lead == 0xf0 && byte(1) < 0x90) return 0;  // overlong
    if (lead == 0xf4 && byte(1) > 0x8f) return 0;  // above U+10FFFF
    return 4;
  }
  return 0;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t word = 0;
    while (at + sizeof word <= text.size()) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & 0x8080808080808080ULL) != 0) break;
      at += sizeof word;
    }
    if (at >= text.size()) break;
    const size_t length = valid_character(text.substr(at, 4));
    if (length == 0) return at;
    at += length;
  }
  return text.size();
}

std::vector<TextFile> find_text_files(const std::vector<std::string>& paths) {
  std::vector<TextFile> files;
  for (const std::string& path : paths) {
    try {
      if (!fs::exists(path)) {
        fail_environment("{}: no such file or folder", path);
      } else if (fs::is_directory(path)) {
        add_folder(path, files);
      } else {
        files.push_back(text_file(path, fs::path(path).filename().string()));
      }
    } catch (const fs::filesystem_error& problem) {
      fail_environment("{}: cannot be read: {}", path, problem.code().message());
    }
  }
  SIDEWINDER_REQUIRE(!files.empty(), "there is no file in {}; give files or folders with text",
                     fmt::join(paths, ", "));
  return files;
}

TextReader::TextReader(std::vector<TextFile> files, TextOptions options)
    : files_(std::move(files)), options_(std::move(options)), buffer_(size_t{1} << 18) {
  for (const TextFile& file : files_) total_ += file.bytes;
}

uint64_t TextReader::file_bytes_read() const {
  return finished_bytes_ + (source_ ? source_->file_bytes_read() : 0);
}

void TextReader::open_next() {
  current_ = &files_[next_file_++];
  source_ = open_source(current_->path);
  ++counts_.files;
  line_ = 0;
  offset_ = 0;
  begin_ = end_ = 0;
}

bool TextReader::refill() {
  begin_ = 0;
  end_ = source_->read(buffer_.data(), buffer_.size());
  return end_ > 0;
}

std::string TextReader::read_whole() {
  std::string text;
  while (refill()) {
    text.append(buffer_.data(), end_);
    if (text.size() > options_.max_document_bytes) {
      fail_environment(
          "{}: the document is longer than {} MiB; split the file, or raise --max-document-mib",
          current_->path, options_.max_document_bytes >> 20);
    }
  }
  return text;
}

bool TextReader::read_line(std::string& line) {
  line.clear();
  bool any = false;
  while (begin_ < end_ || refill()) {
    any = true;
    const char* start = buffer_.data() + begin_;
    const void* found = std::memchr(start, '\n', end_ - begin_);
    const size_t length = found != nullptr
                              ? static_cast<size_t>(static_cast<const char*>(found) - start)
                              : end_ - begin_;
    line.append(start, length);
    begin_ += length;
    if (line.size() > options_.max_document_bytes) {
      fail_environment(
          "{}:{}: the record is longer than {} MiB; split it, or raise --max-document-mib",
          current_->path, line_ + 1, options_.max_document_bytes >> 20);
    }
    if (found != nullptr) {
      ++begin_;
      break;
    }
  }
  if (any) ++line_;
  return any;
}

void require_utf8(std::string_view text, const std::string& name, Blame blame) {
  const size_t bad = find_invalid_utf8(text);
  if (bad == text.size()) return;
  throw Error(blame,
              fmt::format("{}: byte {} (0x{:02x}) is not valid UTF-8; a text is needed that is",
                          name, bad, static_cast<unsigned char>(text[bad])));
}

bool TextReader::mend(std::string& text, const std::string& place, uint64_t first_byte) {
  size_t bad = find_invalid_utf8(text);
  if (bad == text.size()) return true;
  switch (options_.invalid) {
    case InvalidText::error:
      fail_environment(
          "{}: byte {} (0x{:02x}) is not valid UTF-8; convert the text, leave it out, or choose "
          "--invalid replace or --invalid skip",
          place, first_byte + bad, static_cast<unsigned char>(text[bad]));
    case InvalidText::skip: ++counts_.skipped; return false;
    case InvalidText::replace: break;
  }
  ++counts_.replaced;
  std::string mended;
  for (std::string_view rest = text; !rest.empty(); bad = find_invalid_utf8(rest)) {
    mended += rest.substr(0, bad);
    rest.remove_prefix(bad);
    if (rest.empty()) break;
    mended += kReplacement;
    rest.remove_prefix(1);
  }
  text = std::move(mended);
  return true;
}

std::optional<std::string> TextReader::field_of(const std::string& line, const std::string& place) {
  using nlohmann::json;
  json record;
  try {
    record = json::parse(line);
  } catch (const json::exception& problem) {
    fail_environment("{}: the line is not JSON: {}", place, problem.what());
  }
  if (!record.is_object() || !record.contains(options_.field)) {
    std::string names;
    if (record.is_object()) {
      for (const auto& [key, value] : record.items()) names += (names.empty() ? "" : ", ") + key;
    }
    fail_environment("{}: the record has no field \"{}\" (it has: {}); name the field with --field",
                     place, options_.field, names.empty() ? "none" : names);
  }
  const json& value = record[options_.field];
  if (!value.is_string()) {
    fail_environment("{}: field \"{}\" is not a string but {}", place, options_.field,
                     value.type_name());
  }
  return value.get<std::string>();
}

std::optional<TextDocument> TextReader::next_record() {
  std::string line;
  for (;;) {
    const uint64_t first_byte = offset_;
    if (!read_line(line)) return std::nullopt;
    offset_ += line.size() + 1;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = current_->path + ":" + std::to_string(line_);
    if (!mend(line, place, first_byte)) continue;
    std::optional<std::string> text = field_of(line, place);
    line.clear();
    if (!text) continue;
    if (text->empty()) {
      ++counts_.empty;
      continue;
    }
    return TextDocument{current_->name + ":" + std::to_string(line_), std::move(*text)};
  }
}

std::optional<TextDocument> TextReader::next() {
  for (;;) {
    if (!source_) {
      if (next_file_ == files_.size()) return std::nullopt;
      open_next();
    }
    std::optional<TextDocument> document;
    if (current_->json_lines) {
      document = next_record();
      if (document) return document;
    } else {
      std::string text = read_whole();
      if (mend(text, current_->path, 0)) {
        if (text.rfind(kByteOrderMark, 0) == 0) text.erase(0, kByteOrderMark.size());
        if (text.empty()) {
          ++counts_.empty;
        } else {
          document = TextDocument{current_->name, std::move(text)};
        }
      }
    }
    source_.reset();
    finished_bytes_ += current_->bytes;
    if (document) return document;
  }
}

}  // namespace sidewinder
