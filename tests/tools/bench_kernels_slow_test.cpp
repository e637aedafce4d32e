#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

#include "kernels/base/error.h"
#include "tools/commands/bench_kernels.h"

namespace sidewinder {
namespace {

TEST(BenchKernels, WritesWhatItMeasured) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / "sidewinder_bench_kernels_test.json";
  EXPECT_EQ(bench_kernels({.check = false, .json_path = path.string(), .only = {"norm_sq"}}),
            ExitCode::success);
  std::ifstream file(path);
  const nlohmann::json report = nlohmann::json::parse(file);
  std::filesystem::remove(path);
  EXPECT_GT(report.at("limits").at("copy_bandwidth").get<double>(), 0);
  ASSERT_EQ(report.at("kernels").size(), 1U);
  const nlohmann::json& kernel = report.at("kernels").at(0);
  EXPECT_EQ(kernel.at("kernel"), "norm_sq");
  EXPECT_EQ(kernel.at("unit"), "byte/s");
  EXPECT_GT(kernel.at("rate").get<double>(), 0);
  EXPECT_LT(kernel.at("relative_error").get<double>(), 1e-12);
}

TEST(BenchKernels, NamesTheKernelsThereAre) {
  try {
    bench_kernels({.check = false, .json_path = "", .only = {"softmax"}});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    const std::string message = error.what();
    EXPECT_EQ(message.find("bench: no kernel has \"softmax\" in its name; there are: "), 0U);
    EXPECT_NE(message.find("matmul forward"), std::string::npos);
  }
}

TEST(BenchKernels, SaysThatAFileCannotBeWritten) {
  EXPECT_THROW(
      bench_kernels({.check = false, .json_path = "/nonexistent/x.json", .only = {"norm_sq"}}),
      Error);
}

}  // namespace
}  // namespace sidewinder
