#pragma once
// The documents of text files: a file is one document, or, in JSON lines, each record is.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_source.h"
#include "kernels/base/error.h"

namespace sidewinder {

struct TextFile {
  std::string path;
  std::string name;  // below the folder that was named; does not change when the folder is moved
  uint64_t bytes = 0;
  bool json_lines = false;
};

// Files as given, and all regular files below folders (no hidden ones), sorted by name within each.
// A name that ends in .jsonl (or .jsonl.gz, .xz, .zst) is JSON lines. Error{environment} for a
// missing path, Error{user} if there is no file at all.
std::vector<TextFile> find_text_files(const std::vector<std::string>& paths);

enum class InvalidText : uint8_t {
  error,    // stop, naming file and byte
  replace,  // U+FFFD for each invalid byte
  skip,     // leave the document out
};

struct TextOptions {
  std::string field = "text";  // of JSON records
  InvalidText invalid = InvalidText::error;
  uint64_t max_document_bytes = uint64_t{256} << 20;
};

struct TextDocument {
  std::string name;  // of the file; for a record also ":line"
  std::string text;  // valid UTF-8, not empty
};

struct TextCounts {
  int64_t files = 0;
  int64_t empty = 0;     // documents without text, left out
  int64_t skipped = 0;   // invalid ones, left out
  int64_t replaced = 0;  // invalid ones, mended
};

class TextReader {
 public:
  TextReader(std::vector<TextFile> files, TextOptions options);

  // nullopt at the end.
  std::optional<TextDocument> next();
  const TextCounts& counts() const { return counts_; }
  // Of the files as they lie on the disk.
  uint64_t file_bytes_read() const;
  uint64_t file_bytes_total() const { return total_; }

 private:
  std::optional<TextDocument> next_record();
  // Whether a line was read; without its end.
  bool read_line(std::string& line);
  std::string read_whole();
  bool refill();
  void open_next();
  // False if the text is to be left out.
  bool mend(std::string& text, const std::string& place, uint64_t first_byte);
  std::optional<std::string> field_of(const std::string& line, const std::string& place);

  std::vector<TextFile> files_;
  TextOptions options_;
  TextCounts counts_;
  uint64_t total_ = 0;
  uint64_t finished_bytes_ = 0;
  size_t next_file_ = 0;
  const TextFile* current_ = nullptr;
  std::unique_ptr<ByteSource> source_;
  int64_t line_ = 0;
  uint64_t offset_ = 0;  // bytes of the unpacked file before the unread part of the buffer
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

// The offset of the first byte that is not valid UTF-8 (RFC 3629: no surrogates, no overlong
// forms), or text.size().
size_t find_invalid_utf8(std::string_view text);
// An Error that names the byte, unless there is none; `name` says which text it is.
void require_utf8(std::string_view text, const std::string& name, Blame blame);

}  // namespace sidewinder
