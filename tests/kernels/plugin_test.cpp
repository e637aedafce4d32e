#include "kernels/ops/plugin.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

// Beside the program in the build folder.
std::string built_plugin() {
  const std::string program = SIDEWINDER_PROGRAM;
  return program.substr(0, program.rfind('/')) + "/libsidewinder_cuda.so";
}

PluginReport load(const std::string& path) {
  setenv("SIDEWINDER_CUDA_PLUGIN", path.c_str(), 1);
  PluginReport report = load_cuda_plugin();
  unsetenv("SIDEWINDER_CUDA_PLUGIN");
  return report;
}

TEST(Plugin, SaysThatItIsMissing) {
  const PluginReport report = load("/nonexistent/plugin.so");
  EXPECT_FALSE(report.loaded);
  EXPECT_EQ(report.path, "/nonexistent/plugin.so");
  EXPECT_EQ(report.status.find("not found"), 0U) << report.status;
}

TEST(Plugin, SaysThatAFileIsNoPlugin) {
  const std::string path = ::testing::TempDir() + "sidewinder_no_plugin.so";
  std::ofstream(path) << "text";
  const PluginReport report = load(path);
  unlink(path.c_str());
  EXPECT_FALSE(report.loaded);
  EXPECT_EQ(report.status.find("cannot be opened: "), 0U) << report.status;
}

TEST(Plugin, FillsTheSlotsAndReportsDevices) {
  const std::string path = built_plugin();
  if (access(path.c_str(), F_OK) != 0) GTEST_SKIP() << "built without nvcc: no " << path;
  const PluginReport report = load(path);
  ASSERT_TRUE(report.loaded) << report.status;
  EXPECT_EQ(report.status.find("loaded; "), 0U) << report.status;
  EXPECT_NE(kRmsNorm.cuda, nullptr);
  EXPECT_NE(kRmsNormBackward.cuda, nullptr);
  if (report.num_devices > 0) GTEST_SKIP() << "the rest is for machines without a device";
  const Tensor x = Tensor::zeros({1, 8}, Dtype::f32);
  const Tensor weight = Tensor::zeros({8}, Dtype::f32);
  Tensor y = Tensor::empty({1, 8}, Dtype::f32);
  Tensor rstd = Tensor::empty({1}, Dtype::f32);
  try {
    kRmsNorm({{DeviceKind::cuda, 0}, nullptr}, {y, rstd, x, weight, 1e-5F});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    EXPECT_EQ(std::string(error.what()).find("CUDA: rms_norm failed: "), 0U) << error.what();
  }
}

}  // namespace
}  // namespace sidewinder
