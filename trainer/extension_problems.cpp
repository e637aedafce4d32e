#include "trainer/extension_problems.h"

#include <fmt/format.h>

#include <cmath>
#include <set>

#include "model/layer_pattern.h"

namespace sidewinder {
namespace {

const char* name_of(PositionKind position) {
  switch (position) {
    case PositionKind::rope: return "rope";
    case PositionKind::alibi: return "alibi";
    case PositionKind::none: break;
  }
  return "none";
}

bool is_scaled(const BlockOptions& block) { return block.rope_scaling != RopeScalingKind::none; }

// One kind of block before and after, for which there is much to compare.
class BlockComparison {
 public:
  BlockComparison(const ExtensionEnd& before, const ExtensionEnd& after, char old_letter,
                  char letter, std::vector<ContextProblem>& problems)
      : before_(before.model.blocks.at(std::string(1, old_letter))),
        after_(after.model.blocks.at(std::string(1, letter))),
        old_reach_(visible_reach(before_, before.context)),
        new_context_(after.model.max_context > 0 ? after.model.max_context : after.context),
        context_key_(after.model.max_context > 0 ? "model.max_context" : "train.context"),
        path_(fmt::format("model.block.{}", letter)),
        problems_(problems) {}

  void check() {
    if (before_.mixer != after_.mixer) {
      return report("mixer", "is not the mixer that the checkpoint has here",
                    "use the same blocks, in the same order");
    }
    if (after_.mixer != MixerKind::attention) return;
    if (after_.position != before_.position) return check_position();
    if (after_.position != PositionKind::rope) {
      if (is_scaled(after_)) {
        report("rope_scaling",
               fmt::format("there are no rotary positions to scale: position is \"{}\"",
                           name_of(after_.position)),
               "leave rope_scaling out here; without positions no scaling is needed");
      }
      return;
    }
    check_rotary_part();
    if (is_scaled(before_)) {
      check_scaled_before();
    } else if (is_scaled(after_)) {
      check_scaled_now();
    }
    if (const auto problem = scaling_problem(after_, path_, new_context_, context_key_)) {
      problems_.push_back(*problem);
    }
  }

 private:
  void report(const std::string& key, const std::string& what, const std::string& advice) {
    problems_.push_back({{path_ + "." + key}, what, advice});
  }

  void check_position() {
    if (is_scaled(after_) && before_.position == PositionKind::none) {
      return report("rope_scaling", "the checkpoint's block has no positions that could be scaled",
                    "set position = \"none\" and leave rope_scaling out");
    }
    report("position",
           fmt::format("\"{}\", but \"{}\" in the checkpoint, whose weights know no other",
                       name_of(after_.position), name_of(before_.position)),
           fmt::format("use position = \"{}\"", name_of(before_.position)));
  }

  void check_rotary_part() {
    if (after_.head_width != before_.head_width || after_.rotary_share != before_.rotary_share) {
      report("rotary_share",
             fmt::format("turns {} of heads {} wide, but the checkpoint {} of heads {} wide",
                         after_.rotary_share, after_.head_width, before_.rotary_share,
                         before_.head_width),
             "use the checkpoint's");
    }
    if (after_.rope_layout != before_.rope_layout) {
      report("rope_layout", "is not the checkpoint's, which would turn other pairs",
             "use the checkpoint's layout");
    }
    if ((is_scaled(after_) || is_scaled(before_)) && after_.rope_base != before_.rope_base) {
      report("rope_base",
             fmt::format("{}, but {} in the checkpoint; scaling starts from the original base",
                         after_.rope_base, before_.rope_base),
             fmt::format("use {}", before_.rope_base));
    }
  }

  void check_scaled_before() {
    if (!is_scaled(after_)) {
      return report(
          "rope_scaling",
          fmt::format("\"none\", but the checkpoint's positions are scaled by {}, and its "
                      "weights do not know the unscaled ones",
                      before_.rope_factor),
          "keep the checkpoint's scaling, with the total factor");
    }
    if (after_.rope_original_context != before_.rope_original_context) {
      const double total = static_cast<double>(visible_reach(after_, new_context_)) /
                           static_cast<double>(before_.rope_original_context);
      return report(
          "rope_original_context",
          fmt::format("{}, but the checkpoint is scaled by {} from {} already, and "
                      "scaling what is scaled gives other angles",
                      after_.rope_original_context, before_.rope_factor,
                      before_.rope_original_context),
          fmt::format("use {} and the total factor, {}", before_.rope_original_context, total));
    }
    if (after_.rope_factor < before_.rope_factor) {
      report("rope_factor",
             fmt::format("{} is less than the checkpoint's, {}", after_.rope_factor,
                         before_.rope_factor),
             "give the total factor, from the original context");
    }
  }

  void check_scaled_now() {
    if (after_.rope_allow_mismatch || after_.rope_original_context == old_reach_) return;
    report("rope_original_context",
           fmt::format("{}, but queries of the checkpoint saw {} tokens",
                       after_.rope_original_context, old_reach_),
           fmt::format("use {}, or set rope_allow_mismatch = true", old_reach_));
  }

  const BlockOptions& before_;
  const BlockOptions& after_;
  int64_t old_reach_, new_context_;
  std::string context_key_;
  std::string path_;
  std::vector<ContextProblem>& problems_;
};

bool sees_further(const ExtensionEnd& before, const ExtensionEnd& after,
                  const std::string& old_letters, const std::string& letters) {
  for (size_t i = 0; i < letters.size(); ++i) {
    const BlockOptions& block = after.model.blocks.at(std::string(1, letters[i]));
    const BlockOptions& old = before.model.blocks.at(std::string(1, old_letters[i]));
    if (block.mixer != MixerKind::attention || old.mixer != MixerKind::attention) continue;
    if (visible_reach(block, after.context) > visible_reach(old, before.context)) return true;
  }
  return false;
}

}  // namespace

std::optional<ContextProblem> scaling_problem(const BlockOptions& block, const std::string& path,
                                              int64_t context, const std::string& context_key) {
  if (!is_scaled(block) || block.rope_allow_mismatch) return std::nullopt;
  const std::string original_key = path + ".rope_original_context";
  const int64_t original = block.rope_original_context;
  const int64_t reach = visible_reach(block, context);
  // What would have to change for queries to see further.
  const bool window_decides = visible_reach(block, reach + 1) == reach;
  const bool is_block = block.pattern == PatternKind::chunked;
  const std::string reach_name = !window_decides ? context_key
                                 : is_block      ? "pattern_block"
                                                 : "window";
  const std::string reach_key = window_decides ? path + "." + reach_name : context_key;
  const int64_t decisive = !window_decides ? context
                           : is_block      ? block.pattern_block
                                           : block.window;
  if (reach <= original) {
    return ContextProblem{
        {path + ".rope_scaling", original_key, reach_key},
        fmt::format("cannot help: rope_original_context is {}, and with {} = {} no query sees "
                    "further",
                    original, reach_name, decisive),
        fmt::format("remove it, raise {}, or set rope_allow_mismatch = true", reach_name)};
  }
  // llama3 has no length at which it ends, dynamic no fixed one; ntk falls short of its factor.
  if (block.rope_scaling == RopeScalingKind::llama3 ||
      block.rope_scaling == RopeScalingKind::dynamic) {
    return std::nullopt;
  }
  const double reached = block.rope_factor * static_cast<double>(original);
  const double wanted = static_cast<double>(reach);
  const bool is_ntk = block.rope_scaling == RopeScalingKind::ntk;
  if (is_ntk ? reached > wanted - 0.5 : std::abs(reached - wanted) < 0.5) return std::nullopt;
  return ContextProblem{
      {path + ".rope_factor", original_key, reach_key},
      fmt::format("{} · rope_original_context, {}, is {} and not the {} tokens that queries see "
                  "with {} = {}",
                  block.rope_factor, original, reached, reach, reach_name, decisive),
      fmt::format("use {}{}, or set rope_allow_mismatch = true", is_ntk ? "at least " : "",
                  wanted / static_cast<double>(original))};
}

std::vector<ContextProblem> extension_problems(const ExtensionEnd& before,
                                               const ExtensionEnd& after) {
  const std::string old_letters = expand_layers(before.model);
  const std::string letters = expand_layers(after.model);
  if (letters.size() != old_letters.size()) {
    return {
        {{"model.layers"},
         fmt::format("has {} blocks, but the checkpoint {}", letters.size(), old_letters.size()),
         "use the same blocks, in the same order"}};
  }
  std::vector<ContextProblem> problems;
  std::set<std::pair<char, char>> compared;
  for (size_t i = 0; i < letters.size(); ++i) {
    if (!compared.insert({old_letters[i], letters[i]}).second) continue;
    BlockComparison(before, after, old_letters[i], letters[i], problems).check();
  }
  if (after.context <= before.context && !sees_further(before, after, old_letters, letters)) {
    problems.push_back({{"train.context"},
                        fmt::format("{} is not above the checkpoint's context, {}, and no window "
                                    "grows: nothing would be extended",
                                    after.context, before.context),
                        "raise train.context or a window"});
  }
  return problems;
}

}  // namespace sidewinder
