#include "trainer/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "trainer/trainer.h"

namespace sidewinder {
namespace {

StepReport report_at(int64_t step) {
  StepReport report;
  report.step = step;
  report.loss = 3.14159;
  report.gradient_norm = 0.5;
  report.learning_rate = 3e-4;
  report.row_slots = 4096;
  report.flops = 2e9;
  report.seconds = 0.5;
  return report;
}

TEST(Progress, DurationsReadLikeAClock) {
  EXPECT_EQ(duration_text(0), "0:00:00");
  EXPECT_EQ(duration_text(59.6), "0:01:00");
  EXPECT_EQ(duration_text(3723), "1:02:03");
  EXPECT_EQ(duration_text(86400 * 3 + 3723), "3 d 01:02:03");
  EXPECT_EQ(duration_text(-5), "0:00:00");
}

TEST(Progress, TheRateForgetsSlowly) {
  StepRate rate;
  EXPECT_EQ(rate.seconds_per_step(), 0);
  EXPECT_EQ(rate.tokens_per_second(), 0);
  rate.add(2, 100);
  EXPECT_DOUBLE_EQ(rate.seconds_per_step(), 2);
  EXPECT_DOUBLE_EQ(rate.tokens_per_second(), 50);
  // One slow step out of many counts for a twentieth.
  for (int i = 0; i < 1000; ++i) rate.add(1, 100);
  EXPECT_NEAR(rate.seconds_per_step(), 1, 1e-12);
  rate.add(11, 100);
  EXPECT_NEAR(rate.seconds_per_step(), 1.5, 1e-9);
}

TEST(Progress, TheTextsSayWhatIsGoingOn) {
  StepRate rate;
  rate.add(0.5, 4096);
  EXPECT_EQ(plain_text(report_at(250), 1000, rate, 0),
            "step 250 of 1000: loss 3.1416, gradient norm 0.500, learning rate 3.000e-04, "
            "8192 tokens/s, 0:06:15 left");
  EXPECT_THAT(plain_text(report_at(250), 1000, rate, 1e10), ::testing::HasSubstr("MFU 40.0 %"));
  EXPECT_EQ(bar_text(report_at(250), 1000, rate, 1e10, 200),
            "[######------------------] 250/1000  loss 3.1416  lr 3.00e-04  8.2k tok/s  MFU 40 %"
            "  ETA 0:06:15");
  EXPECT_EQ(bar_text(report_at(1000), 1000, rate, 0, 30), "[########################] 100");
}

TEST(Progress, PlainLinesComeAtTheFirstEveryNthAndLastStep) {
  ::testing::internal::CaptureStderr();
  {
    ProgressReporter reporter(3, 12, 5);
    for (int64_t step = 4; step <= 12; ++step) reporter.step(report_at(step), 0);
    reporter.finish();
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 4);
  for (const char* text : {"step 4 of 12", "step 5 of 12", "step 10 of 12", "step 12 of 12"}) {
    EXPECT_THAT(log, ::testing::HasSubstr(text));
  }
}

}  // namespace
}  // namespace sidewinder
