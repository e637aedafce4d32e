#include "trainer/tensorboard.h"

#include <array>
#include <bit>

namespace sidewinder::tensorboard {
namespace {

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table = {};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78U : 0U);
    table[i] = value;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = crc_table();

template <typename Unsigned>
void append_fixed(std::string& bytes, Unsigned value) {
  for (size_t i = 0; i < sizeof(value); ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
}

void append_checksum(std::string& bytes, std::string_view of) {
  append_fixed(bytes, std::rotr(crc32c(of), 15) + 0xa282ead8U);
}

// Protocol-buffer wire format: a key (field number · 8 + kind), then the value.
enum class Wire : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

void append_varint(std::string& message, uint64_t value) {
  for (; value >= 0x80; value >>= 7) message += static_cast<char>(0x80 | (value & 0x7f));
  message += static_cast<char>(value);
}

void append_key(std::string& message, uint32_t field, Wire wire) {
  append_varint(message, field << 3 | static_cast<uint32_t>(wire));
}

void append_number(std::string& message, uint32_t field, uint64_t value) {
  append_key(message, field, Wire::varint);
  append_varint(message, value);
}

void append_bytes(std::string& message, uint32_t field, std::string_view value) {
  append_key(message, field, Wire::bytes);
  append_varint(message, value.size());
  message += value;
}

void append_double(std::string& message, uint32_t field, double value) {
  append_key(message, field, Wire::fixed64);
  append_fixed(message, std::bit_cast<uint64_t>(value));
}

void append_float(std::string& message, uint32_t field, float value) {
  append_key(message, field, Wire::fixed32);
  append_fixed(message, std::bit_cast<uint32_t>(value));
}

// message Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary =
// 5;
//                 SessionLog session_log = 7; }
std::string event(double wall_time, int64_t step) {
  std::string message;
  append_double(message, 1, wall_time);
  append_number(message, 2, static_cast<uint64_t>(step));
  return message;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t value = ~uint32_t{0};
  for (const char byte : bytes) {
    value = kCrcTable[(value ^ static_cast<unsigned char>(byte)) & 0xff] ^ (value >> 8);
  }
  return ~value;
}

std::string record(std::string_view bytes) {
  std::string result;
  append_fixed(result, static_cast<uint64_t>(bytes.size()));
  append_checksum(result, std::string_view(result).substr(0, 8));
  result += bytes;
  append_checksum(result, bytes);
  return result;
}

std::string version_event(double wall_time) {
  std::string message;
  append_double(message, 1, wall_time);
  append_bytes(message, 3, "brain.Event:2");
  return message;
}

std::string start_event(double wall_time, int64_t step) {
  std::string message = event(wall_time, step);
  std::string session;  // message SessionLog { Status status = 1 (START = 1); }
  append_number(session, 1, 1);
  append_bytes(message, 7, session);
  return message;
}

std::string scalars_event(double wall_time, int64_t step, std::span<const Metric> metrics) {
  std::string summary;  // message Summary { repeated Value value = 1; }
  for (const Metric& metric : metrics) {
    std::string value;  // message Value { string tag = 1; float simple_value = 2; }
    append_bytes(value, 1, metric.name);
    append_float(value, 2, static_cast<float>(metric.value));
    append_bytes(summary, 1, value);
  }
  std::string message = event(wall_time, step);
  append_bytes(message, 5, summary);
  return message;
}

}  // namespace sidewinder::tensorboard
