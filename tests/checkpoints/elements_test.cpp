#include "checkpoints/elements.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace sidewinder {
namespace {

const ElementType& type(const char* name) { return *find_element_type(name); }

float widened(const char* name, uint16_t bits) {
  float value = 0;
  EXPECT_EQ(elements_to_f32(type(name), &bits, 1, &value), 0);
  return value;
}

uint16_t narrowed(const char* name, float value) {
  uint16_t bits = 0;
  elements_from_f32(type(name), &value, 1, &bits);
  return bits;
}

TEST(Elements, EveryHalfPrecisionValueComesBackAsItWas) {
  for (const char* name : {"F16", "BF16"}) {
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    std::vector<float> wide(all.size());
    std::vector<uint16_t> back(all.size());
    EXPECT_EQ(elements_to_f32(type(name), all.data(), 65536, wide.data()), 0);
    const Narrowed result = elements_from_f32(type(name), wide.data(), 65536, back.data());
    EXPECT_EQ(back, all) << name;
    EXPECT_EQ(result.rounded, 0) << name;
  }
}

TEST(Elements, HalfPrecisionValuesAreThoseOfIeee754) {
  EXPECT_EQ(widened("F16", 0x3c00), 1.0F);
  EXPECT_EQ(widened("F16", 0xc000), -2.0F);
  EXPECT_EQ(widened("F16", 0x7bff), 65504.0F);
  EXPECT_EQ(widened("F16", 0x0001), 0x1p-24F);
  EXPECT_EQ(widened("F16", 0x03ff), 1023 * 0x1p-24F);
  EXPECT_EQ(widened("F16", 0x0400), 0x1p-14F);
  EXPECT_EQ(std::bit_cast<uint32_t>(widened("F16", 0x8000)), 0x80000000U);
  EXPECT_EQ(widened("F16", 0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(widened("F16", 0x7c01)));
  EXPECT_EQ(widened("BF16", 0x3f80), 1.0F);
}

TEST(Elements, HalfPrecisionRoundsToNearestEven) {
  EXPECT_EQ(narrowed("F16", 1.0F + 0x1p-11F), 0x3c00);             // tie, down to even
  EXPECT_EQ(narrowed("F16", 1.0F + 3 * 0x1p-11F), 0x3c02);         // tie, up to even
  EXPECT_EQ(narrowed("F16", 1.0F + 0x1p-11F + 0x1p-23F), 0x3c01);  // above the tie
  EXPECT_EQ(narrowed("F16", 2047.5F * 0x1p-10F), 0x4000);          // into the next exponent
  EXPECT_EQ(narrowed("F16", 1.5F * 0x1p-24F), 0x0002);             // among subnormals
  EXPECT_EQ(narrowed("F16", 0x1p-25F), 0x0000);
  EXPECT_EQ(narrowed("F16", 0x1.8p-25F), 0x0001);
  EXPECT_EQ(narrowed("F16", 1023.5F * 0x1p-24F), 0x0400);  // subnormal to normal
  EXPECT_EQ(narrowed("F16", 65519.9F), 0x7bff);
  EXPECT_EQ(narrowed("F16", 65520.0F), 0x7c00);
  EXPECT_EQ(narrowed("BF16", 1.0F + 0x1p-8F), 0x3f80);
  EXPECT_EQ(narrowed("BF16", 1.0F + 3 * 0x1p-8F), 0x3f82);
}

TEST(Elements, RoundingAndOverflowAreCounted) {
  const std::vector<float> values = {1.0F, 1.0F + 0x1p-20F, 1e5F,
                                     std::numeric_limits<float>::infinity(), -1e30F};
  std::vector<uint16_t> bits(values.size());
  Narrowed result = elements_from_f32(type("F16"), values.data(), 5, bits.data());
  EXPECT_EQ(result.rounded, 3);
  EXPECT_EQ(result.overflowed, 2);
  result = elements_from_f32(type("BF16"), values.data(), 5, bits.data());
  EXPECT_EQ(result.rounded, 3);
  EXPECT_EQ(result.overflowed, 0);
}

TEST(Elements, F64IsRoundedAndCounted) {
  const std::vector<double> values = {0.1, 0.5, -3.0};
  std::vector<float> wide(3);
  EXPECT_EQ(elements_to_f32(type("F64"), values.data(), 3, wide.data()), 1);
  EXPECT_EQ(wide, (std::vector<float>{0.1F, 0.5F, -3.0F}));
  std::vector<double> back(3);
  elements_from_f32(type("F64"), wide.data(), 3, back.data());
  EXPECT_EQ(back[1], 0.5);
}

TEST(Elements, BytesNeedNoAlignment) {
  const float value = 1.25F;
  char bytes[7] = {};
  std::memcpy(bytes + 3, &value, 4);
  float read = 0;
  elements_to_f32(type("F32"), bytes + 3, 1, &read);
  EXPECT_EQ(read, value);
}

TEST(Elements, TypesAreKnownByName) {
  EXPECT_EQ(find_element_type("F31"), nullptr);
  EXPECT_EQ(type("F8_E4M3").bits, 8);
  EXPECT_EQ(type("F4").bits, 4);
  EXPECT_FALSE(is_convertible(type("I64")));
}

}  // namespace
}  // namespace sidewinder
