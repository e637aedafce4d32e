#include "tools/commands/show_pattern.h"

#include <fmt/core.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <vector>

#include "kernels/base/check.h"
#include "model/options.h"
#include "tools/assemble.h"

namespace sidewinder {
namespace {

constexpr int64_t kLongest = 65536;
constexpr int64_t kWidest = 256;  // longer documents have no grid

struct Key {
  std::string name;
  int64_t BlockOptions::*member;
  int64_t shown;  // if nothing is given
  int64_t least;  // as in recipes/schema/model.cpp
};

const std::vector<Key>& keys() {
  static const std::vector<Key> all = {{"window", &BlockOptions::window, 4, 1},
                                       {"dilation", &BlockOptions::dilation, 2, 2},
                                       {"stride", &BlockOptions::stride, 4, 2},
                                       {"global_tokens", &BlockOptions::global_tokens, 2, 0},
                                       {"pattern_block", &BlockOptions::pattern_block, 4, 1},
                                       {"summary", &BlockOptions::summary, 1, 1},
                                       {"random_blocks", &BlockOptions::random_blocks, 2, 1},
                                       {"pattern_seed", &BlockOptions::pattern_seed, 0, 0}};
  return all;
}

const PatternName& named(const std::string& name) {
  std::vector<std::string> names;
  for (const PatternName& pattern : pattern_names()) {
    if (pattern.name == name) return pattern;
    names.push_back(pattern.name);
  }
  throw Error(Blame::user, fmt::format("pattern \"{}\" is unknown; use one of {}", name,
                                       fmt::join(names, ", ")));
}

std::string flag_of(std::string key) {
  std::replace(key.begin(), key.end(), '_', '-');
  return "--" + key;
}

}  // namespace

ExitCode show_pattern(const ShowPatternCommand& command) {
  const PatternName& kind = named(command.name);
  SIDEWINDER_REQUIRE(command.length >= 1 && command.length <= kLongest,
                     "--length is {}; use 1 to {}", command.length, kLongest);
  SIDEWINDER_REQUIRE(command.tile >= 1, "--tile is {}; use at least 1", command.tile);
  BlockOptions block;
  block.mixer = MixerKind::attention;
  block.pattern = kind.kind;
  nlohmann::json used = nlohmann::json::object();
  std::string parameters;
  for (const Key& key : keys()) {
    const bool applies = std::find(kind.keys.begin(), kind.keys.end(), key.name) != kind.keys.end();
    const std::optional<int64_t>& given = command.values.at(key.name);
    SIDEWINDER_REQUIRE(
        applies || !given, "{} has no effect on pattern {}, which has {}", flag_of(key.name),
        kind.name,
        kind.keys.empty() ? "no parameters" : fmt::format("{}", fmt::join(kind.keys, ", ")));
    if (!applies) continue;
    const int64_t shown =
        kind.kind == PatternKind::bigbird && key.name == "pattern_block" ? 1 : key.shown;
    block.*key.member = given.value_or(shown);
    SIDEWINDER_REQUIRE(block.*key.member >= key.least, "{} is {}; use at least {}",
                       flag_of(key.name), block.*key.member, key.least);
    used[key.name] = block.*key.member;
    parameters += fmt::format(", {} {}", key.name, block.*key.member);
  }
  const AttentionPattern pattern = attention_pattern(block);
  const std::string mistake = pattern.mistake();
  SIDEWINDER_REQUIRE(mistake.empty(), "pattern {}: {}", kind.name, mistake);

  const int64_t length = command.length;
  std::vector<std::string> grid;
  int64_t cells = 0;
  for (int64_t query = 0; query < length; ++query) {
    const AttentionRow row = pattern.row(query);
    std::string line;
    for (int64_t key = 0; key < length; ++key) {
      const bool seen = row.allows(key);
      cells += seen ? 1 : 0;
      line += seen ? '#' : '.';
    }
    grid.push_back(line);
  }
  const int64_t full = length * (length + 1) / 2;
  const int64_t tiles = pattern.tiles(length, command.tile);
  fmt::print("{}{}; a row is a query, a column a key\n", kind.name, parameters);
  if (length <= kWidest) {
    for (const std::string& line : grid) fmt::print("{}\n", line);
  } else {
    fmt::print("(no grid of more than {} tokens)\n", kWidest);
  }
  fmt::print("{} of {} causal cells, {:.1f} %; {} tiles of {} x {} to visit\n", cells, full,
             100.0 * static_cast<double>(cells) / static_cast<double>(full), tiles, command.tile,
             command.tile);
  if (!command.json_path.empty()) {
    nlohmann::json result = {{"pattern", kind.name}, {"parameters", used},   {"length", length},
                             {"cells", cells},       {"causal_cells", full}, {"tile", command.tile},
                             {"tiles", tiles}};
    if (length <= kWidest) result["grid"] = grid;
    write_text_file(command.json_path, result.dump(2));
  }
  return ExitCode::success;
}

}  // namespace sidewinder
