#pragma once
// Runs the built program as a user would, in a folder of its own.

#include <string>
#include <vector>

namespace sidewinder::testing {

struct ProgramResult {
  int exit_code = 0;  // 128 + signal if a signal ended it
  std::string output;  // standard output
  std::string errors;  // standard error
};

// sidewinder ARGUMENTS…, started in `folder`.
ProgramResult run_program(const std::vector<std::string>& arguments, const std::string& folder);

std::string read_file(const std::string& path);

}  // namespace sidewinder::testing
