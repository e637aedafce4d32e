#include "trainer/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <regex>

#include "tests/support/temporary_folder.h"
#include "trainer/tensorboard.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;

std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string without_times(const std::string& text) {
  return std::regex_replace(text, std::regex("\"time\":[0-9.]+"), "\"time\":0");
}

void write_steps(MetricsWriter& writer, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; ++step) {
    const Metric metrics[] = {{"train/loss", 1.0 / static_cast<double>(step)},
                              {"train/targets", 1e6 * static_cast<double>(step)}};
    writer.write(step, metrics);
    if (step % 10 == 0) writer.write(step, std::vector<Metric>{{"validation/loss", 2.5}});
  }
}

TEST(MetricsWriter, ARecordIsALineOfJson) {
  const TemporaryFolder folder;
  MetricsWriter writer(folder.path(), 0);
  const Metric metrics[] = {{"train/loss", 0.1},
                            {"quoted \"name\"", -3e-30},
                            {"bad", std::numeric_limits<double>::quiet_NaN()},
                            {"worse", -std::numeric_limits<double>::infinity()}};
  writer.write(12, metrics);
  // Read while the writer lives: every record has reached the operating system.
  const std::string text = file_text(folder / "metrics.jsonl");
  const nlohmann::json line = nlohmann::json::parse(text);
  EXPECT_EQ(text.back(), '\n');
  EXPECT_EQ(line.at("step"), 12);
  EXPECT_EQ(line.at("train/loss"), 0.1);
  EXPECT_EQ(line.at("quoted \"name\""), -3e-30);
  EXPECT_TRUE(line.at("bad").is_null());
  EXPECT_TRUE(line.at("worse").is_null());
  EXPECT_NEAR(line.at("time").get<double>(), static_cast<double>(time(nullptr)), 60);
}

TEST(MetricsWriter, AResumedRunHasTheFileOfAnUndisturbedOne) {
  const TemporaryFolder straight;
  const TemporaryFolder resumed;
  {
    MetricsWriter writer(straight.path(), 0);
    write_steps(writer, 1, 50);
  }
  {
    MetricsWriter writer(resumed.path(), 0);
    write_steps(writer, 1, 33);
  }
  // The process died in the middle of a line.
  std::ofstream(resumed / "metrics.jsonl", std::ios::app) << "{\"step\":34,\"time\":17";
  {
    MetricsWriter writer(resumed.path(), 20);
    write_steps(writer, 21, 35);
  }
  {
    MetricsWriter writer(resumed.path(), 35);
    write_steps(writer, 36, 50);
  }
  EXPECT_EQ(without_times(file_text(resumed / "metrics.jsonl")),
            without_times(file_text(straight / "metrics.jsonl")));
  EXPECT_FALSE(fs::exists(resumed / "metrics.jsonl.tmp"));
}

TEST(MetricsWriter, AFreshRunBeginsAnEmptyFile) {
  const TemporaryFolder folder;
  {
    MetricsWriter writer(folder.path(), 0);
    write_steps(writer, 1, 3);
  }
  const MetricsWriter writer(folder.path(), 0);
  EXPECT_EQ(file_text(folder / "metrics.jsonl"), "");
}

TEST(MetricsWriter, AnUncutFileIsNotRewritten) {
  const TemporaryFolder folder;
  {
    MetricsWriter writer(folder.path(), 0);
    write_steps(writer, 1, 3);
  }
  const auto before = fs::last_write_time(folder / "metrics.jsonl");
  const MetricsWriter writer(folder.path(), 3);
  EXPECT_EQ(fs::last_write_time(folder / "metrics.jsonl"), before);
}

// The child has a file-size limit, which the system reports like a full disk.
TEST(MetricsWriter, AFullDiskIsOneWarningAndWholeLines) {
  const TemporaryFolder folder;
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {2000, 2000};
    setrlimit(RLIMIT_FSIZE, &limit);
    ::testing::internal::CaptureStderr();
    MetricsWriter writer(folder.path(), 0);
    write_steps(writer, 1, 50);
    const std::string log = ::testing::internal::GetCapturedStderr();
    const std::string text = file_text(folder / "metrics.jsonl");
    const auto lines = std::count(log.begin(), log.end(), '\n');
    const bool good = lines == 2 && log.find("metrics.jsonl: cannot write") != std::string::npos &&
                      text.size() > 1800 && text.back() == '\n';
    _exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// A decoder written for the test: framing, then just enough of the wire format.
struct Field {
  uint32_t number = 0;
  uint64_t value = 0;  // varint or fixed
  std::string bytes;
};

template <typename Unsigned>
Unsigned fixed(const std::string& text, size_t at) {
  Unsigned value = 0;
  std::memcpy(&value, text.data() + at, sizeof(value));
  return value;
}

std::vector<Field> fields_of(const std::string& message) {
  std::vector<Field> fields;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(at++));
      value |= uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const uint64_t key = varint();
    Field field{static_cast<uint32_t>(key >> 3), 0, {}};
    switch (key & 7) {
      case 0: field.value = varint(); break;
      case 1: field.value = fixed<uint64_t>(message, at), at += 8; break;
      case 2: {
        const uint64_t length = varint();
        field.bytes = message.substr(at, length);
        EXPECT_EQ(field.bytes.size(), length);
        at += length;
        break;
      }
      case 5: field.value = fixed<uint32_t>(message, at), at += 4; break;
      default: ADD_FAILURE() << "kind " << (key & 7); return fields;
    }
    fields.push_back(field);
  }
  return fields;
}

uint32_t masked(const std::string& bytes) {
  const uint32_t crc = tensorboard::crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

std::vector<std::string> records_of(const std::string& text) {
  std::vector<std::string> records;
  size_t at = 0;
  while (at < text.size()) {
    const auto length = fixed<uint64_t>(text, at);
    EXPECT_EQ(fixed<uint32_t>(text, at + 8), masked(text.substr(at, 8)));
    records.push_back(text.substr(at + 12, length));
    EXPECT_EQ(fixed<uint32_t>(text, at + 12 + length), masked(records.back()));
    at += 16 + length;
  }
  EXPECT_EQ(at, text.size());
  return records;
}

TEST(TensorBoard, ChecksumIsCrc32c) {
  EXPECT_EQ(tensorboard::crc32c("123456789"), 0xe3069283U);  // RFC 3720, appendix B.4
  EXPECT_EQ(tensorboard::crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(tensorboard::crc32c(std::string(32, '\xff')), 0x62a8ab43U);
}

TEST(TensorBoard, EventFilesDecodeToWhatWasWritten) {
  const TemporaryFolder folder;
  {
    MetricsWriter writer(folder.path(), 300);
    const Metric metrics[] = {{"train/loss", 2.75}, {"train/learning_rate", 3e-4}};
    writer.write(301, metrics);
    writer.write(100000, std::vector<Metric>{{"x", -1.0}});
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder / "tensorboard")) {
    files.push_back(entry.path());
  }
  ASSERT_EQ(files.size(), 1U);
  EXPECT_THAT(files[0].filename().string(),
              ::testing::MatchesRegex("events\\.out\\.tfevents\\.[0-9]{10}\\..*"));
  const std::vector<std::string> records = records_of(file_text(files[0]));
  ASSERT_EQ(records.size(), 4U);

  const std::vector<Field> version = fields_of(records[0]);
  ASSERT_EQ(version.size(), 2U);
  EXPECT_NEAR(std::bit_cast<double>(version[0].value), static_cast<double>(time(nullptr)), 60);
  EXPECT_EQ(version[1].number, 3U);
  EXPECT_EQ(version[1].bytes, "brain.Event:2");

  const std::vector<Field> start = fields_of(records[1]);
  ASSERT_EQ(start.size(), 3U);
  EXPECT_EQ(start[1].value, 301U);
  EXPECT_EQ(start[2].number, 7U);
  ASSERT_EQ(fields_of(start[2].bytes).size(), 1U);
  EXPECT_EQ(fields_of(start[2].bytes)[0].value, 1U);

  const std::vector<Field> event = fields_of(records[2]);
  ASSERT_EQ(event.size(), 3U);
  EXPECT_EQ(event[1].value, 301U);
  EXPECT_EQ(event[2].number, 5U);
  const std::vector<Field> values = fields_of(event[2].bytes);
  ASSERT_EQ(values.size(), 2U);
  const std::vector<Field> second = fields_of(values[1].bytes);
  EXPECT_EQ(second[0].bytes, "train/learning_rate");
  EXPECT_EQ(second[1].number, 2U);
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(second[1].value)), 3e-4F);
  EXPECT_EQ(fields_of(records[3])[1].value, 100000U);
}

}  // namespace
}  // namespace sidewinder
