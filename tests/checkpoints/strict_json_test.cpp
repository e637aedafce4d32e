#include "checkpoints/strict_json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

std::string message_of(const std::string& text, const StrictJsonLimits& limits = {}) {
  try {
    parse_strict_json(text, "it", limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    return error.what();
  }
  return "(nothing thrown)";
}

TEST(StrictJson, AnObjectKeepsItsValuesAndTheirOrder) {
  const std::string text = R"({"b":[1,-2,3.5,{"x":null}],"a":{"t":true,"s":"naïve"}})";
  EXPECT_EQ(parse_strict_json(text + " \n", "it").dump(), text);
}

TEST(StrictJson, DuplicateKeysAreRefusedAtAnyDepth) {
  EXPECT_EQ(message_of(R"({"a":1,"a":1})"), R"(it has the key "a" twice)");
  EXPECT_EQ(message_of(R"({"a":[{"b":1,"\u0062":2}]})"), R"(it has the key "b" twice)");
  EXPECT_EQ(message_of(R"({"a":{"b":1},"b":2})"), "(nothing thrown)");
}

TEST(StrictJson, DepthAndSizeAreLimited) {
  EXPECT_EQ(message_of(R"({"a":[[1]]})", {.depth = 3}), "(nothing thrown)");
  EXPECT_EQ(message_of(R"({"a":[[[1]]]})", {.depth = 3}), "it is nested more than 3 deep");
  EXPECT_EQ(message_of("{\"a\":" + std::string(1000000, '[')), "it is nested more than 32 deep");
  EXPECT_EQ(message_of(R"({"a":1,"b":2,"c":3})", {.members = 2}), "it has more than 2 entries");
}

TEST(StrictJson, OtherTextIsRefused) {
  EXPECT_EQ(message_of("[1]"), "it is not an object");
  EXPECT_EQ(message_of("7"), "it is not an object");
  EXPECT_EQ(message_of(""), "it is not valid JSON at byte 1");
  EXPECT_EQ(message_of("{\"a\":1} x"), "it is not valid JSON at byte 9");
  EXPECT_EQ(message_of("{\"a\":\"\xff\"}"), "it is not valid JSON at byte 7");
  EXPECT_EQ(message_of(R"({"a":Infinity})"), "it is not valid JSON at byte 6");
}

}  // namespace
}  // namespace sidewinder
