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

// A new empty folder under the system's temporary folder, deleted with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  // Writes `text` to a file in the folder and returns its path.
  std::string write(const std::string& name, const std::string& text) const;

 private:
  std::string path_;
};

std::string read_file(const std::string& path);

}  // namespace sidewinder::testing
