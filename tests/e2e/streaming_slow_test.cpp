// A published checkpoint of 512 tokens reads texts of many thousands with sinks, a window, and
// positions that count the tokens in the cache (StreamingLLM).
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "tests/support/program.h"
#include "tests/support/shared_data.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using nlohmann::json;
using testing::run_program;
using testing::TemporaryFolder;

TEST(StreamingRealModel, CachePositionsKeepTheLossOfTheTrainedLength) {
  SIDEWINDER_SKIP_WITHOUT_SHARED_DATA()
  const TemporaryFolder folder;
  const std::string model = (*testing::shared_data() / "checkpoints/stories260k").string();
  const std::string stories = (*testing::shared_data() / "text/stories260k-sampled.jsonl").string();
  const std::string tokenizer = model + "/tok512.model";
  const auto made =
      run_program({"tokenize", stories, "--output", "tokens", "--tokenizer", tokenizer, "--bos",
                   "model", "--eos", "none", "--hold-out", "0.1", "--join-bytes", "65536"},
                  folder.path());
  ASSERT_EQ(made.exit_code, 0) << made.errors;
  const auto evaluate = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        "eval",         model,   "--tokenizer", tokenizer,    "--data", "tokens/validation",
        "--max-tokens", "16000", "--json",      "result.json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = run_program(arguments, folder.path());
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    return json::parse(testing::read_file(folder / "result.json"));
  };
  const double trained = evaluate({"--lengths", "512"})["by_length"][0]["loss"];
  const json full = evaluate({"--stream"});
  const std::string block = "model.block.a.";
  const auto streamed = [&](const std::string& positions) {
    return evaluate({"--stream", "--set", block + "pattern=sink_window", "--set",
                     block + "window=252", "--set", block + "global_tokens=4", "--set",
                     block + "rope_positions=" + positions});
  };
  const json cache = streamed("cache");
  const json text = streamed("text");
  const double of_cache = cache["stream"]["loss"];
  const double of_text = text["stream"]["loss"];
  const double of_full = full["stream"]["loss"];
  std::printf("512: %.4f; stream of %d: cache %.4f, text %.4f, full %.4f\n", trained,
              cache["stream"]["targets"].get<int>(), of_cache, of_text, of_full);
  EXPECT_TRUE(std::isfinite(of_cache));
  EXPECT_LT(of_cache, trained + 0.05);
  EXPECT_GT(of_text, of_cache + 1);
  EXPECT_GT(of_full, of_cache + 1);
  // To the end of the stream.
  const json last = cache["stream"]["by_position"].back();
  EXPECT_GE(last["first"].get<int>(), 8192);
  EXPECT_LT(last["loss"].get<double>(), trained + 0.1);
}

}  // namespace
}  // namespace sidewinder
