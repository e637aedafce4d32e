#include "tools/commands/show_rope.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>

#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

const std::string kMinimal = std::string(SIDEWINDER_SOURCE_DIR) + "/tests/recipes/minimal.toml";

// The eight numbers by hand: d = 8, base 1e4, 4096 tokens, 16 times.
std::vector<std::string> yarn_by_hand() {
  return {"model.block.w.pattern=full",
          "model.block.w.head_width=8",
          "model.block.w.rope_scaling=yarn",
          "model.block.w.rope_factor=16",
          "model.block.w.rope_original_context=4096",
          "train.context=65536",
          "train.tokens_per_step=65536"};
}

TEST(ShowRope, TellsEveryPair) {
  const auto blocks = rope_table_json(load_recipe(kMinimal, yarn_by_hand()));
  ASSERT_EQ(blocks.size(), 1U);
  const auto& block = blocks.at("w");
  EXPECT_EQ(block.at("scaling"), "yarn");
  EXPECT_EQ(block.at("original_context"), 4096);
  EXPECT_EQ(block.at("context"), 65536);
  EXPECT_NEAR(block.at("attention_factor").get<double>(), 1.2772588722, 1e-10);
  const auto& pairs = block.at("pairs");
  ASSERT_EQ(pairs.size(), 4U);
  const double after[] = {1, 0.1, 0.0053125, 0.0000625};
  const double ramp[] = {0, 0, 0.5, 1};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(pairs[i].at("after").get<double>(), after[i], 1e-9 * after[i]);
    EXPECT_EQ(pairs[i].at("ramp"), ramp[i]);
  }
  EXPECT_NEAR(pairs[2].at("before").get<double>(), 0.01, 1e-16);
  EXPECT_NEAR(pairs[3].at("divided_by").get<double>(), 16, 1e-12);
  EXPECT_NEAR(pairs[0].at("wavelength").get<double>(), 6.283185307, 1e-9);
  EXPECT_NEAR(pairs[0].at("rotations").get<double>(), 4096 / 6.283185307, 1e-6);
}

TEST(ShowRope, PrintsTheTableAndWritesIt) {
  const testing::TemporaryFolder folder;
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(show_rope({kMinimal, yarn_by_hand(), folder / "rope.json"}), ExitCode::success);
  const std::string text = ::testing::internal::GetCapturedStdout();
  EXPECT_NE(text.find("block w: base 10000, 8 of 8 numbers per head turned, half_split\n"
                      "    yarn by 16 from 4,096 tokens; queries see 65,536 of 65,536 tokens; "
                      "attention factor 1.277258872\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("   2    0.01  0.0053125"), std::string::npos) << text;
  std::ifstream file(folder / "rope.json");
  const auto written = nlohmann::ordered_json::parse(file);
  EXPECT_EQ(written.at("blocks"), rope_table_json(load_recipe(kMinimal, yarn_by_hand())));
}

TEST(ShowRope, SaysSoWhereNothingIsTurned) {
  try {
    show_rope({kMinimal, {"model.block.w.position=none"}, ""});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    EXPECT_EQ(std::string(error.what()),
              kMinimal +
                  ": no block turns positions; one with mixer = \"attention\" and position = "
                  "\"rope\" does");
  }
}

}  // namespace
}  // namespace sidewinder
