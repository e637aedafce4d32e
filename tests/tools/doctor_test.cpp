#include "tools/commands/doctor.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

TEST(Doctor, ReportsTheMachineAndTheMissingPlugin) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / "sidewinder_doctor_test.json";
  setenv("SIDEWINDER_CUDA_PLUGIN", "/nonexistent/plugin.so", 1);
  EXPECT_EQ(doctor(path.string()), 0);
  unsetenv("SIDEWINDER_CUDA_PLUGIN");
  std::ifstream file(path);
  const nlohmann::json report = nlohmann::json::parse(file);
  std::filesystem::remove(path);
  EXPECT_FALSE(report.at("cuda_plugin").at("loaded").get<bool>());
  EXPECT_EQ(report.at("cuda_plugin").at("path"), "/nonexistent/plugin.so");
  EXPECT_GT(report.at("limits").at("f32_flops").get<double>(), 0);
  EXPECT_GE(report.at("limits").at("threads").get<int>(), 1);
  for (const char* key : {"sidewinder", "system", "processor", "kernels", "memory", "threads",
                          "huge_pages", "NUMA", "pinning"}) {
    EXPECT_FALSE(report.at(key).get<std::string>().empty()) << key;
  }
}

TEST(Doctor, SaysThatAFileCannotBeWritten) { EXPECT_THROW(doctor("/nonexistent/x.json"), Error); }

}  // namespace
}  // namespace sidewinder
