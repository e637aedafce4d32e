// A published checkpoint is extended to four times its context by the recipe in the tree.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <map>

#include "tests/support/program.h"
#include "tests/support/shared_data.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::run_program;
using testing::TemporaryFolder;

TEST(ExtendRealModel, YarnLowersTheLossBeyondTheOldContext) {
  SIDEWINDER_SKIP_WITHOUT_SHARED_DATA()
  const TemporaryFolder folder;
  const auto good = [&](const std::vector<std::string>& arguments) {
    const auto result = run_program(arguments, folder.path());
    ASSERT_EQ(result.exit_code, 0) << result.errors;
  };
  const std::string model = (*testing::shared_data() / "checkpoints/stories260k").string();
  const std::string stories = (*testing::shared_data() / "text/stories260k-sampled.jsonl").string();
  good({"convert", model, "runs/stories260k", "--tokenizer", model + "/tok512.model"});
  good({"tokenize", stories, "--output", "corpus/stories-tokens", "--tokenizer",
        model + "/tok512.model", "--bos", "model", "--eos", "none", "--hold-out", "0.1",
        "--join-bytes", "16384"});
  good({"extend", std::string(SIDEWINDER_SOURCE_DIR) + "/recipes/extend/yarn-x4-stories260k.toml",
        "--set", "run.folder=run"});
  const auto record =
      nlohmann::json::parse(testing::read_file(folder / "run/extension.json"))["measurements"];
  const auto find = [&](const std::string& when, int step, int context) {
    for (const auto& m : record) {
      if (m["when"] == when && m["step"] == step && m["context"] == context) return m;
    }
    ADD_FAILURE() << when << " " << step << " " << context << " was not measured";
    return nlohmann::json{{"loss", 0.0}, {"far_loss", 0.0}};
  };
  const double near_before = find("before", 0, 512)["loss"];
  const double near_after = find("trained", 60, 512)["loss"];
  EXPECT_LT(near_after, near_before + 0.06);
  for (const auto& [context, gain] : {std::pair{1024, 0.06}, {2048, 0.2}}) {
    const double before = find("before", 0, context)["far_loss"];
    const double after = find("trained", 60, context)["far_loss"];
    EXPECT_GT(before - after, gain) << context;
    // What lies beyond the old context is now read as well as what lies within.
    EXPECT_LT(after, near_after) << context;
  }
  // Scaled but not yet trained it is worse within, though readable beyond.
  EXPECT_LT(find("untrained", 0, 512)["loss"], 1.35 * near_before);
  EXPECT_LT(find("untrained", 0, 2048)["far_loss"], 1.35 * near_before);

  // By position in documents of up to 8,192 tokens. Unscaled, the model loses the text beyond its
  // context; extended, it gets no worse up to four times that, and does beyond.
  const auto by_position = [&](const std::string& run) {
    good({"eval", run, "--data", "corpus/stories-tokens/validation", "--context", "8192",
          "--max-tokens", "80000", "--json", "eval.json"});
    std::map<int64_t, double> losses;
    const auto result = nlohmann::json::parse(testing::read_file(folder / "eval.json"));
    for (const auto& bucket : result.at("by_position")) losses[bucket["first"]] = bucket["loss"];
    return losses;
  };
  std::map<int64_t, double> unscaled = by_position("runs/stories260k");
  std::map<int64_t, double> extended = by_position("run");
  for (const int64_t first : {256, 512, 1024, 2048, 4096}) {
    std::printf("from position %4ld: unscaled %.3f, extended %.3f nats per token\n",
                static_cast<long>(first), unscaled[first], extended[first]);
  }
  EXPECT_GT(unscaled[1024], unscaled[256] + 0.2);
  EXPECT_GT(unscaled[2048], unscaled[256] + 2);
  EXPECT_GT(unscaled[4096], unscaled[2048]);
  EXPECT_LT(extended[512], extended[256] + 0.05);
  EXPECT_LT(extended[1024], extended[256] + 0.05);
  EXPECT_GT(extended[2048], extended[1024] + 0.05);
  EXPECT_GT(extended[4096], extended[2048] + 0.2);
}

}  // namespace
}  // namespace sidewinder
