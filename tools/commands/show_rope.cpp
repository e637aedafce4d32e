#include "tools/commands/show_rope.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "tools/assemble.h"
#include "tools/commands/table.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kTwoPi = 6.283185307179586476925287;

std::string name_of(RopeScalingKind kind) {
  switch (kind) {
    case RopeScalingKind::none: break;
    case RopeScalingKind::linear: return "linear";
    case RopeScalingKind::ntk: return "ntk";
    case RopeScalingKind::dynamic: return "dynamic";
    case RopeScalingKind::ntk_by_parts: return "ntk_by_parts";
    case RopeScalingKind::yarn: return "yarn";
    case RopeScalingKind::longrope: return "longrope";
    case RopeScalingKind::llama3: return "llama3";
  }
  return "none";
}

int64_t context_of(const Recipe& recipe) {
  return recipe.model.max_context > 0 ? recipe.model.max_context : recipe.train.context;
}

Json block_json(const BlockOptions& block, int64_t context) {
  const RopeOptions rope = rope_options(block);
  const RopeScaling& scaling = rope.scaling;
  const bool is_scaled = scaling.kind != RopeScalingKind::none;
  const int64_t original = is_scaled ? scaling.original_context : context;
  const std::vector<double> frequencies = rope_frequencies(rope, context);
  const std::vector<double> ramp = rope_ramp(rope);
  Json pairs = Json::array();
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double before = rope_frequency(rope, static_cast<int64_t>(i));
    pairs.push_back({{"pair", i},
                     {"before", before},
                     {"after", frequencies[i]},
                     {"divided_by", before / frequencies[i]},
                     {"wavelength", kTwoPi / frequencies[i]},
                     {"ramp", ramp[i]},
                     {"rotations", static_cast<double>(original) * before / kTwoPi}});
  }
  return {{"scaling", name_of(scaling.kind)},
          {"factor", scaling.factor},
          {"base", rope.base},
          {"layout", rope.interleaved ? "interleaved" : "half_split"},
          {"head_width", rope.head_width},
          {"rotary_width", rope.rotary_width},
          {"original_context", original},
          {"context", context},
          {"reach", visible_reach(block, context)},
          {"attention_factor", rope_attention_factor(rope)},
          {"pairs", std::move(pairs)}};
}

void print_block(const std::string& letter, const Json& block) {
  const auto number = [&](const char* key) { return block[key].get<double>(); };
  const auto integer = [&](const char* key) { return block[key].get<int64_t>(); };
  fmt::print("block {}: base {}, {} of {} numbers per head turned, {}\n", letter, number("base"),
             integer("rotary_width"), integer("head_width"), block["layout"].get<std::string>());
  if (block["scaling"] == "none") {
    fmt::print("    not scaled");
  } else {
    fmt::print("    {} by {} from {} tokens", block["scaling"].get<std::string>(), number("factor"),
               count_text(integer("original_context")));
  }
  fmt::print("; queries see {} of {} tokens; attention factor {:.10g}\n\n",
             count_text(integer("reach")), count_text(integer("context")),
             number("attention_factor"));
  std::vector<TableRow> rows = {
      {"pair", "before", "after", "divided by", "wavelength", "ramp", "rotations"}};
  for (const Json& pair : block["pairs"]) {
    const auto value = [&](const char* key) { return pair[key].get<double>(); };
    rows.push_back(
        {fmt::format("{}", pair["pair"].get<int64_t>()), fmt::format("{:.9g}", value("before")),
         fmt::format("{:.9g}", value("after")), fmt::format("{:.4f}", value("divided_by")),
         fmt::format("{:.1f}", value("wavelength")), fmt::format("{:.4f}", value("ramp")),
         fmt::format("{:.4g}", value("rotations"))});
  }
  fmt::print("{}\n", table_text(rows, "rrrrrrr"));
}

}  // namespace

Json rope_table_json(const Recipe& recipe) {
  Json blocks = Json::object();
  for (const auto& [letter, block] : recipe.model.blocks) {
    if (block.mixer != MixerKind::attention || block.position != PositionKind::rope) continue;
    blocks[letter] = block_json(block, context_of(recipe));
  }
  return blocks;
}

ExitCode show_rope(const ShowRopeCommand& command) {
  const Json blocks = rope_table_json(load_recipe(command.recipe, command.sets));
  if (blocks.empty()) {
    fail_user(
        "{}: no block turns positions; one with mixer = \"attention\" and position = \"rope\" does",
        command.recipe);
  }
  for (const auto& [letter, block] : blocks.items()) print_block(letter, block);
  fmt::print(
      "Frequencies are angles per token; a wavelength is in tokens, after scaling; ramp 0 keeps a "
      "pair, 1 divides it by the factor;\nrotations are over the original context, before "
      "scaling.\n");
  if (!command.json_path.empty()) {
    write_text_file(command.json_path,
                    Json{{"recipe", command.recipe}, {"blocks", blocks}}.dump(2));
  }
  return ExitCode::success;
}

}  // namespace sidewinder
