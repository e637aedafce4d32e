#include "tools/commands/synthesize.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/base/philox.h"

namespace sidewinder {
namespace {

constexpr int64_t kCopyLetters = 8;
constexpr int64_t kKeys = 8;
constexpr int64_t kValues = 8;

// Draws of one document, in order.
class Draws {
 public:
  Draws(uint64_t seed, int64_t document)
      : random_(seed, static_cast<uint64_t>(document) + Philox::hash("synthesize")) {}
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(random_.below(next_++, static_cast<uint64_t>(bound)));
  }
  void shuffle(std::vector<int64_t>& items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<size_t>(below(static_cast<int64_t>(i)))]);
    }
  }

 private:
  Philox random_;
  uint64_t next_ = 0;
};

}  // namespace

SyntheticDocument synthetic_document(const SynthesizeCommand& command, int64_t index) {
  Draws draws(command.seed, index);
  SyntheticDocument document;
  const int64_t length = 1 + draws.below(command.length);
  const std::string gap = "|" + std::string(static_cast<size_t>(command.distance), '.') + "|";
  if (command.task == "copy") {
    for (int64_t i = 0; i < length; ++i) {
      document.text += static_cast<char>('a' + draws.below(kCopyLetters));
    }
    const std::string letters = document.text;
    document.text += gap;
    const int64_t begin = static_cast<int64_t>(document.text.size());
    document.text += letters;
    document.answers.push_back({begin, begin + length});
    return document;
  }
  std::vector<int64_t> keys(kKeys);
  std::iota(keys.begin(), keys.end(), 0);
  draws.shuffle(keys);
  keys.resize(static_cast<size_t>(length));
  std::vector<char> values(kKeys);
  for (const int64_t key : keys) {
    values[static_cast<size_t>(key)] = static_cast<char>('0' + draws.below(kValues));
    document.text += static_cast<char>('a' + key);
    document.text += values[static_cast<size_t>(key)];
  }
  document.text += gap;
  draws.shuffle(keys);
  for (const int64_t key : keys) {
    document.text += static_cast<char>('a' + key);
    const int64_t begin = static_cast<int64_t>(document.text.size());
    document.text += values[static_cast<size_t>(key)];
    document.answers.push_back({begin, begin + 1});
  }
  return document;
}

ExitCode synthesize(const SynthesizeCommand& command) {
  SIDEWINDER_REQUIRE(command.task == "copy" || command.task == "recall",
                     "the task is \"{}\"; it must be copy or recall", command.task);
  SIDEWINDER_REQUIRE(command.documents >= 1 && command.length >= 1 && command.distance >= 0,
                     "--documents {}, --length {}, --distance {}: the first two must be positive and "
                     "the third not negative",
                     command.documents, command.length, command.distance);
  SIDEWINDER_REQUIRE(command.task == "copy" || command.length <= kKeys,
                     "--length is {} but there are only {} keys for recall", command.length, kKeys);
  std::ofstream file(command.output, std::ios::binary | std::ios::trunc);
  for (int64_t i = 0; i < command.documents; ++i) {
    const SyntheticDocument document = synthetic_document(command, i);
    file << nlohmann::json{{"text", document.text}, {"answers", document.answers}}.dump() << '\n';
  }
  file.close();
  if (!file) {
    fail_environment("cannot write {}; check that its folder exists and has room", command.output);
  }
  log_info("{} documents of the {} task in {}", command.documents, command.task, command.output);
  return ExitCode::success;
}

}  // namespace sidewinder
