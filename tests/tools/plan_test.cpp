#include "tools/commands/plan.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>

#include "kernels/base/error.h"
#include "tests/support/program.h"
#include "tests/support/tiny_run.h"
#include "tools/memory_plan.h"

namespace sidewinder {
namespace {

// The line of the table that begins with `first`, its runs of blanks made single.
std::string line_of(const std::string& text, const std::string& first, size_t from = 0) {
  const size_t begin = text.find("\n" + first, from);
  if (begin == std::string::npos) return "";
  std::string line;
  for (const char c : text.substr(begin + 1, text.find('\n', begin + 1) - begin - 1)) {
    if (c != ' ' || (!line.empty() && line.back() != ' ')) line += c;
  }
  return line;
}

TEST(PlanTables, AttentionByLengthIsThatOfTheLiterature) {
  const std::string text = plan_tables();
  const size_t at = text.find("scores n²");
  const std::string lines[] = {"1024 1.0 M 8.6 GF 536.9 MB 0.5 GiB 17.18 GF 8.598 GF 2.097 MB",
                               "4096 16.8 M 137.4 GF 2.1 GB 2 GiB 274.9 GF 137.5 GF 33.55 MB",
                               "16384 268.4 M 2.2 TF 8.6 GB 8 GiB 4.398 TF 2.199 TF 536.9 MB",
                               "65536 4.3 G 35.2 TF 34.4 GB 32 GiB 70.37 TF 35.18 TF 8.590 GB",
                               "131072 17.2 G 140.7 TF 68.7 GB 64 GiB 281.5 TF 140.7 TF 34.36 GB",
                               "1048576 1.1 T 9.0 PF 549.8 GB 512 GiB 18.01 PF 9.007 PF 2.199 TB",
                               "2097152 4.4 T 36.0 PF 1.1 TB 1024 GiB 72.06 PF 36.03 PF 8.796 TB"};
  for (const std::string& line : lines) {
    const std::string length = line.substr(0, line.find(' '));
    EXPECT_EQ(line_of(text, std::string(7 - length.size(), ' ') + length, at), line);
  }
}

TEST(PlanTables, LayersOfEveryKindAreThoseOfTheLiterature) {
  const std::string text = plan_tables();
  const size_t at = text.find("Mamba-1 scan+conv");
  const std::string lines[] = {
      "1024 8.60 GF 8.60 GF 137 GF 1.01 GF 216 GF 7.59 GF 16.8 MB 16.8 MB",
      "4096 137 GF 137 GF 550 GF 4.03 GF 865 GF 30.3 GF 67.1 MB 67.1 MB",
      "16384 2.20 TF 962 GF 2.20 TF 16.1 GF 3.46 TF 121 GF 268 MB 67.1 MB",
      "65536 35.2 TF 4.26 TF 8.80 TF 64.4 GF 13.8 TF 485 GF 1.07 GB 67.1 MB",
      "131072 141 TF 8.66 TF 17.6 TF 129 GF 27.7 TF 971 GF 2.15 GB 67.1 MB",
      "1048576 9.01 PF 70.2 TF 141 TF 1.03 TF 221 TF 7.77 TF 17.2 GB 67.1 MB"};
  for (const std::string& line : lines) {
    const std::string length = line.substr(0, line.find(' '));
    EXPECT_EQ(line_of(text, std::string(7 - length.size(), ' ') + length, at), line);
  }
  EXPECT_NE(text.find("512 KiB in f32, 48 KiB"), std::string::npos);
}

TEST(PlanTables, WorkedHybridIsExact) {
  const std::string text = plan_tables();
  EXPECT_EQ(line_of(text, "attention projections"), "attention projections 4 5,242,880");
  EXPECT_EQ(line_of(text, "attention core"), "attention core, window 512 1,966,336");
  EXPECT_EQ(line_of(text, "  full causal"), "full causal would be 8,390,656");
  EXPECT_EQ(line_of(text, "gated MLP"), "gated MLP, hidden 2816 12 17,301,504");
  EXPECT_EQ(line_of(text, "Mamba-2, 2048"), "Mamba-2, 2048 channels, 128 states 8 15,026,176");
  EXPECT_EQ(line_of(text, "logits"), "logits of 32000 1 65,536,000");
  EXPECT_EQ(line_of(text, "forward"), "forward 422,200,320");
  EXPECT_EQ(line_of(text, "training"), "training, 3 x forward 1,266,600,960");
  EXPECT_EQ(line_of(text, "  with full"), "with full attention 1,343,692,800");
}

TEST(PlanTables, NameTheirConventions) {
  const std::string text = plan_tables();
  for (const char* convention : {"multiply-add is 2 FLOPs", "Causal attention counts visible pairs",
                                 "3 x forward", "recomputation is not included"}) {
    EXPECT_NE(text.find(convention), std::string::npos) << convention;
  }
}

TEST(DecimalText, RoundsAtTheEdgesOfPrefixes) {
  EXPECT_EQ(decimal_text(999.6, 3), "1.00 k");
  EXPECT_EQ(decimal_text(999.4, 3), "999 ");
  EXPECT_EQ(decimal_text(9.9996e9, 4), "10.00 G");
  EXPECT_EQ(decimal_text(1.5, 3), "1.50 ");
}

TEST(MemoryProblem, SaysWhatIsNeededAndWhichChangesFit) {
  Recipe recipe;
  recipe.model.width = 128;
  recipe.model.vocabulary = 1000;
  recipe.model.layers = "mmmmmmmm";
  recipe.model.blocks["m"] = {};
  recipe.train.context = 4096;
  recipe.train.tokens_per_micro_batch = 16384;
  recipe.train.tokens_per_step = 16384;
  recipe.train.precision = Precision::bf16;
  const std::string text = memory_problem(recipe, int64_t{450} << 20);
  EXPECT_EQ(text.find("this run needs "), 0U) << text;
  EXPECT_NE(text.find("but 450.0 MiB are available\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n    train.tokens_per_micro_batch = 4096: "), std::string::npos) << text;
  EXPECT_NE(text.find("\n    train.recompute = \"block\": "), std::string::npos) << text;
  EXPECT_NE(text.find(" MiB, fits\n"), std::string::npos) << text;
  EXPECT_NE(text.find("change one of these, or pass --allow-too-little-memory to try anyway"),
            std::string::npos)
      << text;
  EXPECT_NE(memory_problem(recipe, int64_t{200} << 20)
                .find("use a smaller model or a machine with more memory"),
            std::string::npos);
}

TEST(AvailableMemory, IsAPositiveNumberOfBytes) {
  EXPECT_GT(available_memory(), int64_t{16} << 20);
  EXPECT_LT(available_memory(), int64_t{1} << 50);
}

}  // namespace
}  // namespace sidewinder
