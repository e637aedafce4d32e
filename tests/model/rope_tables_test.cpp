#include "model/layers/rope_tables.h"

#include <gtest/gtest.h>

#include "tests/support/random.h"

namespace sidewinder {
namespace {

RopeOptions options_of(double base) {
  RopeOptions options;
  options.base = base;
  return options;
}

TEST(RopeTables, ThoseWhoTurnAlikeReadTheSameOne) {
  RopeTables tables;
  const RopeTable first = tables.of(options_of(1e4), 100, 100, Dtype::f32);
  const RopeTable other = tables.of(options_of(1e6), 100, 100, Dtype::f32);
  const RopeTable again = tables.of(options_of(1e4), 200, 200, Dtype::f32);
  EXPECT_EQ(again.cosine.raw(), first.cosine.raw());
  EXPECT_EQ(again.sine.raw(), first.sine.raw());
  EXPECT_FALSE(testing::same_bits(other.cosine, first.cosine));
}

TEST(RopeTables, AreMadeAnewForMorePositionsAnotherTypeAndOtherFrequencies) {
  RopeTables tables;
  const RopeTable shorter = tables.of(options_of(1e4), 100, 100, Dtype::f32);
  const RopeTable longer = tables.of(options_of(1e4), 5000, 5000, Dtype::f32);
  EXPECT_GE(longer.cosine.size(0), 5000);
  EXPECT_TRUE(
      testing::same_bits(longer.cosine.slice_rows(0, 100), shorter.cosine.slice_rows(0, 100)));
  EXPECT_EQ(tables.of(options_of(1e4), 100, 100, Dtype::f64).cosine.dtype(), Dtype::f64);

  RopeOptions dynamic = options_of(1e4);
  dynamic.scaling.kind = RopeScalingKind::dynamic;
  dynamic.scaling.factor = 4;
  dynamic.scaling.original_context = 64;
  const RopeTable near = tables.of(dynamic, 64, 64, Dtype::f32);
  const RopeTable far = tables.of(dynamic, 64, 256, Dtype::f32);
  const RopeTable expected = ops::rope_table(dynamic, 64, Dtype::f32, 256);
  EXPECT_FALSE(testing::same_bits(near.cosine, far.cosine));
  EXPECT_TRUE(testing::same_bits(expected.cosine, far.cosine));
}

}  // namespace
}  // namespace sidewinder
