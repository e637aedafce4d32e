#pragma once
// What a call that must fail says.

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "kernels/base/error.h"

namespace sidewinder::testing {

inline std::string message_of(const std::function<void()>& call, ExitCode code = ExitCode::user) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), code);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

}  // namespace sidewinder::testing
