#include "tools/commands/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>

#include "checkpoints/store.h"
#include "kernels/base/text.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/program.h"
#include "tests/support/small_corpus.h"
#include "tests/support/temporary_folder.h"
#include "tools/commands/table.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

InspectCommand at(const std::string& path, bool tensors = false) {
  InspectCommand command;
  command.path = path;
  command.tensors = tensors;
  return command;
}

std::string output_of(const InspectCommand& command) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(inspect(command), ExitCode::success);
  return ::testing::internal::GetCapturedStdout();
}

nlohmann::json json_of(InspectCommand command, const TemporaryFolder& folder) {
  command.json_path = folder / "result.json";
  output_of(command);
  return nlohmann::json::parse(testing::read_file(command.json_path));
}

Error error_of(const InspectCommand& command) {
  ::testing::internal::CaptureStdout();
  Error result(ExitCode::success, "(nothing thrown)");
  try {
    inspect(command);
  } catch (const Error& error) {
    result = error;
  }
  ::testing::internal::GetCapturedStdout();
  return result;
}

void save(const std::string& folder, int64_t step) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CheckpointContent content;
  content.step = step;
  content.tensors = {{"model/weight", Tensor::from<float>({2, 2}, {1, 3, 5, -7})},
                     {"model/half", Tensor::from<float>({3}, {-2, nan, 2}).to(Dtype::bf16)},
                     {"adamw.m/weight", Tensor::zeros({2, 2}, Dtype::f32)}};
  content.state = R"({"step":5,"cursor":"line one\nline two","recipe":"not = [a recipe"})";
  Store(folder).save(content, {});
}

TEST(Inspect, ACheckpointIsShownWithItsStateAndGroups) {
  const TemporaryFolder folder;
  save(folder.path(), 5);
  const std::string text = output_of(at(folder / "step-000000005/"));
  EXPECT_THAT(text, HasSubstr("step         5\n"));
  EXPECT_THAT(text, HasSubstr("all digests verified"));
  EXPECT_THAT(text, HasSubstr("cursor  line one\\nline two\n"));
  EXPECT_THAT(text, HasSubstr("the stored recipe cannot be read by this program: "));
  EXPECT_THAT(text, HasSubstr("group    tensors  elements  bytes\n"
                              "adamw.m        1         4   16 B\n"
                              "model          2         7   22 B\n"));
  EXPECT_THAT(text, HasSubstr("\nelements that are not finite: 1\n"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("model/weight")));
}

TEST(Inspect, TensorsAreShownWithTheirStatistics) {
  const TemporaryFolder folder;
  save(folder.path(), 5);
  const std::string text = output_of(at(folder / "step-000000005/manifest.json", true));
  EXPECT_THAT(text, HasSubstr("model/weight    f32   [2, 2]  5.000e-01  4.555e+00  7.000e+00"));
  EXPECT_THAT(text, HasSubstr("model/half      bf16  [3]     0.000e+00  2.000e+00  2.000e+00"));
  const auto json = json_of(at(folder / "step-000000005", true), folder);
  EXPECT_EQ(json["kind"], "checkpoint");
  EXPECT_EQ(json["not_finite"], 1);
  EXPECT_EQ(json["tensors"][0]["mean"], 0.5);
  EXPECT_EQ(json["tensors"][0]["shape"], (std::vector<int>{2, 2}));
  EXPECT_EQ(json["state"]["step"], 5);
  EXPECT_EQ(json["groups"]["model"]["elements"], 7);
}

TEST(Inspect, ARunIsAListAndItsNewestSoundCheckpoint) {
  const TemporaryFolder folder;
  for (const int64_t step : {5, 6, 7}) save(folder / "run", step);
  fs::resize_file(folder / "run/step-000000007/rank-0000.h5", 100);
  const std::string text = output_of(at(folder / "run"));
  EXPECT_THAT(text, HasSubstr("rank-0000.h5: has 100 bytes where the manifest says"));
  EXPECT_THAT(text, HasSubstr("step         6\n"));
  const auto json = json_of(at(folder / "run"), folder);
  EXPECT_EQ(json["checkpoints"].size(), 3U);
  EXPECT_TRUE(json["checkpoints"][1]["problem"].is_null());
  EXPECT_EQ(json["step"], 6);
  EXPECT_EQ(error_of(at(folder / "run/step-000000007")).exit_code(), ExitCode::environment);
  EXPECT_TRUE(fs::exists(folder / "run/step-000000007"));  // looking changes nothing
}

TEST(Inspect, CheckpointsThatWereSetAsideAreListedToo) {
  const TemporaryFolder folder;
  for (const int64_t step : {5, 6}) save(folder / "run", step);
  fs::resize_file(folder / "run/step-000000006/rank-0000.h5", 100);
  EXPECT_EQ(Store(folder / "run").load_newest()->step, 5);
  const auto json = json_of(at(folder / "run"), folder);
  EXPECT_EQ(json["step"], 5);
  ASSERT_EQ(json["checkpoints"].size(), 2U);
  EXPECT_EQ(json["checkpoints"][1]["folder"], folder / "run/.bad-step-000000006");
  EXPECT_THAT(json["checkpoints"][1]["problem"], HasSubstr("has 100 bytes"));
  fs::remove_all(folder / "run/step-000000005");
  const Error error = error_of(at(folder / "run"));
  EXPECT_EQ(error.exit_code(), ExitCode::environment);
  EXPECT_THAT(error.what(), HasSubstr("all checkpoints are damaged"));
  EXPECT_THAT(error.what(), HasSubstr("restore one from a copy, or start anew with --fresh"));
}

TEST(Inspect, ADamagedCheckpointIsSaidToBeReplaced) {
  const TemporaryFolder folder;
  save(folder.path(), 5);
  const std::string damaged = folder / "step-000000005";
  testing::flip_bits(damaged + "/rank-0000.h5", fs::file_size(damaged + "/rank-0000.h5") / 2, 1);
  const auto expect_advice = [&](const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    EXPECT_THAT(error.what(), HasSubstr("its bytes have digest "));
    EXPECT_THAT(error.what(), HasSubstr("restore it from a copy, or use another one of its run "
                                        "(`sidewinder inspect " +
                                        folder.path() + "` lists them)"));
  };
  expect_advice(error_of(at(damaged + "/")));
  try {
    load_checkpoint_or_newest(damaged + "/");
    FAIL();
  } catch (const Error& error) {
    expect_advice(error);
  }
}

TEST(Inspect, ACorpusIsShownWithLengthsAndFirstWords) {
  const TemporaryFolder folder;
  const testing::Documents train = {{'H', 'i', '\n'}, {'x'}, std::vector<int32_t>(100, 'y')};
  testing::write_corpus(folder / "corpus", train, 256, 2, {{'v', 0xc3}});
  const std::string text = output_of(at(folder / "corpus"));
  EXPECT_THAT(text, HasSubstr("tokenizer    bytes, vocabulary 256\n"));
  EXPECT_THAT(text, HasSubstr("train        3 documents, 104 tokens"));
  EXPECT_THAT(text, HasSubstr("     1          1       1    1.0 %\n"));
  EXPECT_THAT(text,
              HasSubstr("64–127          1     100   96.2 % ##############################\n"));
  EXPECT_THAT(text, HasSubstr("first words  Hi\\n\n"));
  const auto json = json_of(at(folder / "corpus/validation"), folder);
  EXPECT_EQ(json["train"]["shards"].size(), 2U);
  EXPECT_EQ(json["validation"]["tokens"], 2);
  EXPECT_EQ(json["validation"]["first_words"], "v\xEF\xBF\xBD");
  const auto shard = json_of(at(folder / "corpus/train/shard-00000.h5"), folder);
  EXPECT_EQ(shard["kind"], "shard");
  EXPECT_EQ(shard["documents"], 2);
}

TEST(Inspect, OtherPathsAreRefused) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of(at(folder / "none")).what(), HasSubstr("there is no such file"));
  EXPECT_THAT(error_of(at(folder.path())).what(),
              HasSubstr("is neither a run folder or checkpoint"));
  EXPECT_EQ(error_of(at(folder.path())).exit_code(), ExitCode::user);
}

TEST(Table, ColumnsAreAligned) {
  EXPECT_EQ(table_text({{"a", "number", "b"}, {"naïve", "1", "x"}, {"y", "22", ""}}, "lrl"),
            "a      number  b\n"
            "naïve       1  x\n"
            "y          22\n");
}

TEST(Table, NumbersAndTextsReadWell) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text(uint64_t{5} << 40), "5.0 TiB");
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(1000), "1,000");
  EXPECT_EQ(count_text(-1234567), "-1,234,567");
  EXPECT_EQ(count_text(-123), "-123");
  EXPECT_EQ(line_text("a\tb\nc\x01", 80), "a\\tb\\nc\\x01");
  EXPECT_EQ(line_text("naïve text", 5), "naïve…");
}

}  // namespace
}  // namespace sidewinder
