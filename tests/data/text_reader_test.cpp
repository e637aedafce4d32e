#include "data/text_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/files.h"
#include "kernels/base/error.h"
#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

std::string error_of(const std::function<void()>& action, ExitCode code = ExitCode::environment) {
  return testing::message_of(action, code);
}

std::string gzip(const std::string& text) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(text.size() + 1000, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(packed.size() - stream.avail_out);
  deflateEnd(&stream);
  return packed;
}

std::string xz(const std::string& text) {
  std::string packed(text.size() + 1000, '\0');
  size_t size = 0;
  EXPECT_EQ(lzma_easy_buffer_encode(
                6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(text.data()),
                text.size(), reinterpret_cast<uint8_t*>(packed.data()), &size, packed.size()),
            LZMA_OK);
  packed.resize(size);
  return packed;
}

std::string zstd(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

struct ReadDocuments {
  std::vector<std::string> names;
  std::vector<std::string> texts;
  TextCounts counts;
};

ReadDocuments read_all(const std::vector<std::string>& paths, const TextOptions& options = {}) {
  TextReader reader(find_text_files(paths), options);
  ReadDocuments result;
  while (const auto document = reader.next()) {
    result.names.push_back(document->name);
    result.texts.push_back(document->text);
  }
  result.counts = reader.counts();
  EXPECT_EQ(reader.file_bytes_read(), reader.file_bytes_total());
  return result;
}

TEST(TextReader, WalksFoldersInOrderAndNamesFilesBelowThem) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "b/c");
  std::filesystem::create_directories(folder / ".git");
  write_file(folder / "z.txt", "last");
  write_file(folder / "a.txt", "first");
  write_file(folder / "b/c/deep.md", "deep");
  write_file(folder / ".hidden", "no");
  write_file(folder / ".git/config", "no");
  const ReadDocuments read = read_all({folder.path(), folder / "z.txt"});
  EXPECT_THAT(read.names, ElementsAre("a.txt", "b/c/deep.md", "z.txt", "z.txt"));
  EXPECT_THAT(read.texts, ElementsAre("first", "deep", "last", "last"));
}

TEST(TextReader, ReadsCompressedFormsOfTextAndRecords) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "line " + std::to_string(i) + "\n";
  const std::string records = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
  // Several streams one after the other, too.
  write_file(folder / "a.txt.gz", gzip(text.substr(0, 5000)) + gzip(text.substr(5000)));
  write_file(folder / "b.txt.xz", xz(text.substr(0, 5000)) + xz(text.substr(5000)));
  write_file(folder / "c.txt.zst", zstd(text.substr(0, 5000)) + zstd(text.substr(5000)));
  write_file(folder / "d.jsonl.gz", gzip(records));
  write_file(folder / "e.jsonl.xz", xz(records));
  write_file(folder / "f.jsonl.zst", zstd(records));
  const ReadDocuments read = read_all({folder.path()});
  ASSERT_EQ(read.texts.size(), 9U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(read.texts[static_cast<size_t>(i)], text);
  for (size_t i = 3; i < 9; ++i) EXPECT_EQ(read.texts[i], i % 2 == 1 ? "one" : "two");
  EXPECT_EQ(read.names[4], "d.jsonl.gz:2");
}

TEST(TextReader, DamagedCompressionIsAnErrorNamingTheFile) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 50'000; ++i) text += std::to_string(i * 7919 % 10007) + ' ';
  const std::vector<std::pair<std::string, std::string>> files = {
      {"a.gz", gzip(text)}, {"b.xz", xz(text)}, {"c.zst", zstd(text)}};
  for (const auto& [name, packed] : files) {
    for (const size_t size : {packed.size() / 2, packed.size() - 1, size_t{12}}) {
      write_file(folder / name, packed.substr(0, size));
      const std::string message = error_of([&, n = name] { read_all({folder / n}); });
      EXPECT_THAT(message, HasSubstr(folder / name));
      EXPECT_THAT(message, HasSubstr("damaged"));
    }
    std::string flipped = packed;
    flipped[packed.size() / 2] = static_cast<char>(flipped[packed.size() / 2] ^ 0x10);
    write_file(folder / name, flipped);
    if (name == "c.zst") continue;  // this frame carries no checksum
    EXPECT_THAT(error_of([&, n = name] { read_all({folder / n}); }), HasSubstr("damaged"));
  }
}

TEST(TextReader, InvalidTextIsRefusedNamingTheByte) {
  const TemporaryFolder folder;
  const std::vector<std::pair<std::string, size_t>> cases = {
      {"abc\xff", 3},       {"\x80", 0},
      {"12345678\xc3", 8},  {"\xc0\xaf", 0},
      {"a\xed\xa0\x80", 1}, {"\xf4\x90\x80\x80", 0},
      {"\xe0\x9f\xbf", 0},  {"\xf0\x8f\xbf\xbf", 0},
      {"häh\xe2\x82", 4},   {"ok \xf5\x80\x80\x80", 3}};
  for (const auto& [text, at] : cases) {
    EXPECT_EQ(find_invalid_utf8(text), at);
    write_file(folder / "bad.txt", text);
    EXPECT_THAT(error_of([&] { read_all({folder / "bad.txt"}); }),
                HasSubstr("bad.txt: byte " + std::to_string(at) + " (0x"));
  }
  for (const std::string& good :
       {std::string("plain"), std::string("häh €uro 😀 \xf4\x8f\xbf\xbf \xed\x9f\xbf"),
        std::string()}) {
    EXPECT_EQ(find_invalid_utf8(good), good.size());
  }
  write_file(folder / "bad.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"a\xff\"}\n");
  EXPECT_THAT(error_of([&] { read_all({folder / "bad.jsonl"}); }),
              HasSubstr("bad.jsonl:2: byte 28 (0xff)"));
}

TEST(TextReader, InvalidTextCanBeMendedOrSkipped) {
  const TemporaryFolder folder;
  write_file(folder / "a.txt", "x\xff\xfey\xe2\x82");
  write_file(folder / "b.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"a\xff\"}\n");
  const ReadDocuments mended = read_all({folder.path()}, {.invalid = InvalidText::replace});
  EXPECT_THAT(mended.texts, ElementsAre("x\ufffd\ufffdy\ufffd\ufffd", "fine", "a\ufffd"));
  EXPECT_EQ(mended.counts.replaced, 2);
  const ReadDocuments skipped = read_all({folder.path()}, {.invalid = InvalidText::skip});
  EXPECT_THAT(skipped.texts, ElementsAre("fine"));
  EXPECT_EQ(skipped.counts.skipped, 2);
}

TEST(TextReader, EmptyDocumentsAreCountedAndLeftOut) {
  const TemporaryFolder folder;
  write_file(folder / "a.txt", "");
  write_file(folder / "b.txt", "\xef\xbb\xbf");
  write_file(folder / "c.txt", "\xef\xbb\xbftext");
  write_file(folder / "d.jsonl", "{\"text\": \"\"}\n\n  \r\n{\"text\": \"x\"}");
  write_file(folder / "e.jsonl", "");
  const ReadDocuments read = read_all({folder.path()});
  EXPECT_THAT(read.texts, ElementsAre("text", "x"));
  EXPECT_THAT(read.names, ElementsAre("c.txt", "d.jsonl:4"));
  EXPECT_EQ(read.counts.empty, 3);
  EXPECT_EQ(read.counts.files, 5);
}

TEST(TextReader, RecordsWithoutTheFieldAreNamed) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.jsonl";
  const auto error = [&](const std::string& line, const TextOptions& options = {}) {
    write_file(path, "{\"text\": \"fine\", \"body\": \"b\"}\n" + line + "\n");
    return error_of([&] { read_all({path}, options); });
  };
  EXPECT_THAT(error("{\"id\": 3, \"content\": \"x\"}"),
              HasSubstr("x.jsonl:2: the record has no field \"text\" (it has: content, id)"));
  EXPECT_THAT(error("{\"text\": 7}"), HasSubstr("x.jsonl:2: field \"text\" is not a string"));
  EXPECT_THAT(error("[1, 2]"), HasSubstr("x.jsonl:2: the record has no field"));
  EXPECT_THAT(error("{\"text\": "), HasSubstr("x.jsonl:2: the line is not JSON"));
  EXPECT_THAT(error("{\"text\": \"\\ud800\"}"), HasSubstr("x.jsonl:2: the line is not JSON"));
  EXPECT_THAT(error("{\"text\": \"x\"}", {.field = "body"}), HasSubstr("no field \"body\""));
}

TEST(TextReader, LongDocumentsAreRefusedBeforeTheyFillTheMemory) {
  const TemporaryFolder folder;
  write_file(folder / "a.txt", std::string(3 << 20, 'x'));
  write_file(folder / "b.jsonl", "{\"text\": \"" + std::string(3 << 20, 'x') + "\"}");
  // 1 GiB of zeros packs to 1 MB; it must not be unpacked to the end.
  const TextOptions options = {.max_document_bytes = 2 << 20};
  EXPECT_THAT(error_of([&] { read_all({folder / "a.txt"}, options); }),
              HasSubstr("a.txt: the document is longer than 2 MiB"));
  EXPECT_THAT(error_of([&] { read_all({folder / "b.jsonl"}, options); }),
              HasSubstr("b.jsonl:1: the record is longer than 2 MiB"));
}

TEST(TextReader, MissingPathsAreNamed) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { find_text_files({folder / "none"}); }),
              HasSubstr("none: no such file or folder"));
  EXPECT_THAT(error_of([&] { find_text_files({folder.path()}); }, ExitCode::user),
              HasSubstr("there is no file in"));
}

}  // namespace
}  // namespace sidewinder
