#include "data/byte_source.h"

#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "data/files.h"
#include "kernels/base/check.h"

namespace sidewinder {
namespace {

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(RandomAccessFile file) : file_(std::move(file)) {}
  size_t read(char* data, size_t bytes) override {
    const size_t count = std::min<uint64_t>(bytes, file_.size() - at_);
    file_.read(at_, data, count);
    at_ += count;
    return count;
  }
  uint64_t file_bytes_read() const override { return at_; }

 private:
  RandomAccessFile file_;
  uint64_t at_ = 0;
};

// The compressed forms share the input side; each may be several streams one after the other.
class CompressedSource : public ByteSource {
 public:
  CompressedSource(const std::string& path, RandomAccessFile file)
      : path_(path), plain_(std::move(file)), input_(size_t{1} << 17) {}

  uint64_t file_bytes_read() const override { return plain_.file_bytes_read(); }

  size_t read(char* data, size_t bytes) final {
    if (bytes == 0) return 0;
    for (;;) {
      if (used_ == filled_ && !at_end_) {
        filled_ = plain_.read(input_.data(), input_.size());
        used_ = 0;
        at_end_ = filled_ == 0;
      }
      const bool no_more_input = at_end_ && used_ == filled_;
      size_t produced = 0;
      size_t consumed = 0;
      decompress(std::string_view(input_.data() + used_, filled_ - used_), data, bytes, consumed,
                 produced);
      used_ += consumed;
      if (produced > 0) return produced;
      if (no_more_input) {
        if (!between_streams()) fail("it ends too early; it was truncated");
        return 0;
      }
    }
  }

 protected:
  virtual void decompress(std::string_view input, char* output, size_t room, size_t& consumed,
                          size_t& produced) = 0;
  virtual bool between_streams() const = 0;

  [[noreturn]] void fail(const std::string& reason) const {
    fail_environment("{}: the compressed file is damaged: {}", path_, reason);
  }

 private:
  std::string path_;
  PlainSource plain_;
  std::vector<char> input_;
  size_t used_ = 0;
  size_t filled_ = 0;
  bool at_end_ = false;
};

class GzipSource : public CompressedSource {
 public:
  using CompressedSource::CompressedSource;
  ~GzipSource() override { inflateEnd(&stream_); }

 protected:
  void decompress(std::string_view input, char* output, size_t room, size_t& consumed,
                  size_t& produced) override {
    if (input.empty()) return;
    if (between_) {
      inflateEnd(&stream_);
      stream_ = {};
      SIDEWINDER_ASSERT(inflateInit2(&stream_, 15 + 16) == Z_OK);  // 16: gzip header
      between_ = false;
    }
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
    stream_.avail_in = static_cast<uInt>(input.size());
    stream_.next_out = reinterpret_cast<Bytef*>(output);
    stream_.avail_out = static_cast<uInt>(std::min(room, size_t{1} << 30));
    const uInt room_before = stream_.avail_out;
    const int status = inflate(&stream_, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      fail(stream_.msg != nullptr ? stream_.msg : "gzip data error");
    }
    consumed = input.size() - stream_.avail_in;
    produced = room_before - stream_.avail_out;
    between_ = status == Z_STREAM_END;
  }
  bool between_streams() const override { return between_; }

 private:
  z_stream stream_ = {};
  bool between_ = true;
};

class XzSource : public CompressedSource {
 public:
  XzSource(const std::string& path, RandomAccessFile file)
      : CompressedSource(path, std::move(file)) {
    constexpr uint64_t kMemoryLimit = uint64_t{1} << 30;
    SIDEWINDER_ASSERT(lzma_stream_decoder(&stream_, kMemoryLimit, LZMA_CONCATENATED) == LZMA_OK);
  }
  ~XzSource() override { lzma_end(&stream_); }

 protected:
  void decompress(std::string_view input, char* output, size_t room, size_t& consumed,
                  size_t& produced) override {
    if (finished_) return;
    stream_.next_in = reinterpret_cast<const uint8_t*>(input.data());
    stream_.avail_in = input.size();
    stream_.next_out = reinterpret_cast<uint8_t*>(output);
    stream_.avail_out = room;
    const lzma_ret status = lzma_code(&stream_, input.empty() ? LZMA_FINISH : LZMA_RUN);
    consumed = input.size() - stream_.avail_in;
    produced = room - stream_.avail_out;
    if (status == LZMA_STREAM_END) {
      finished_ = true;
    } else if (status == LZMA_MEMLIMIT_ERROR) {
      fail("unpacking it would need more than 1 GiB of memory");
    } else if (status == LZMA_BUF_ERROR) {
      if (input.empty() && produced == 0) fail("it ends too early; it was truncated");
    } else if (status != LZMA_OK) {
      fail("xz data error");
    }
  }
  bool between_streams() const override { return finished_; }

 private:
  lzma_stream stream_ = LZMA_STREAM_INIT;
  bool finished_ = false;
};

class ZstdSource : public CompressedSource {
 public:
  ZstdSource(const std::string& path, RandomAccessFile file)
      : CompressedSource(path, std::move(file)), stream_(ZSTD_createDStream()) {
    SIDEWINDER_ASSERT(stream_ != nullptr);
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, 30);
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }

 protected:
  void decompress(std::string_view input, char* output, size_t room, size_t& consumed,
                  size_t& produced) override {
    ZSTD_inBuffer in = {input.data(), input.size(), 0};
    ZSTD_outBuffer out = {output, room, 0};
    const size_t status = ZSTD_decompressStream(stream_, &out, &in);
    if (ZSTD_isError(status) != 0) fail(ZSTD_getErrorName(status));
    consumed = in.pos;
    produced = out.pos;
    if (consumed > 0 || produced > 0) between_ = status == 0;
  }
  bool between_streams() const override { return between_; }

 private:
  ZSTD_DStream* stream_;
  bool between_ = true;
};

}  // namespace

std::unique_ptr<ByteSource> open_source(const std::string& path) {
  RandomAccessFile file(path);
  std::string start(std::min<uint64_t>(6, file.size()), '\0');
  file.read(0, start.data(), start.size());
  const auto begins_with = [&](std::string_view magic) { return start.rfind(magic, 0) == 0; };
  if (begins_with("\x1f\x8b")) return std::make_unique<GzipSource>(path, std::move(file));
  if (begins_with(std::string_view("\xfd"
                                   "7zXZ\0",
                                   6))) {
    return std::make_unique<XzSource>(path, std::move(file));
  }
  if (begins_with("\x28\xb5\x2f\xfd")) return std::make_unique<ZstdSource>(path, std::move(file));
  return std::make_unique<PlainSource>(std::move(file));
}

}  // namespace sidewinder
