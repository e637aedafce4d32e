#include "recipes/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <set>
#include <type_traits>

#include "recipes/table.h"
#include "trainer/context_schedule.h"
#include "trainer/extension_problems.h"
#include "trainer/lanes.h"

namespace sidewinder {
namespace {

class Checker {
 public:
  Checker(const Node& tree, RecipeUse use, Problems& problems)
      : tree_(tree), use_(use), problems_(problems) {}

  bool is_for_training() const { return use_ == RecipeUse::training; }

  // Whether the values of these keys may be relied upon.
  template <typename... Keys>
  bool sound(const Keys&... keys) const {
    return (!problems_.has(keys) && ...);
  }

  // The problem is the first key's. It is reported where the last of them was decided: what --set
  // changes is to be mended there, not in the file.
  void report(const std::vector<std::string>& keys, const std::string& what,
              const std::string& advice) {
    Place place = place_of(keys.front());
    for (const std::string& key : keys) {
      if (place_of(key).precedence > place.precedence) place = place_of(key);
    }
    problems_.add({place, keys.front(), what, advice});
  }

  // The value of `key`; else the innermost table around it that was written.
  Place place_of(const std::string& key) const {
    const Node* node = find(key);
    return node ? node->place : tree_.place;
  }

  const Node* find(const std::string& path) const {
    const Node* node = &tree_;
    for (size_t begin = 0; begin <= path.size();) {
      const size_t dot = std::min(path.find('.', begin), path.size());
      const std::string key = path.substr(begin, dot - begin);
      const Node* next = nullptr;
      if (node->kind == Node::Kind::array) {
        const size_t index = std::stoul(key);
        if (index < node->items.size()) next = &node->items[index];
      } else {
        next = node->find(key);
      }
      if (next == nullptr) break;
      node = next;
      begin = dot + 1;
    }
    return node;
  }

 private:
  const Node& tree_;
  RecipeUse use_;
  Problems& problems_;
};

void check_layers(ModelOptions& model, Checker& check) {
  if (!check.sound("model.layers", "model.block")) return;
  std::set<std::string> used;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const char c = model.layers[i];
    if (c == ' ') continue;
    const std::string letter(1, c);
    if (!std::isalpha(static_cast<unsigned char>(c))) {
      size_t end = i + 1;  // of the character in UTF-8
      while (end < model.layers.size() && (model.layers[end] & 0xC0) == 0x80) ++end;
      return check.report({"model.layers"},
                          fmt::format("{} has \"{}\", which is not one of a to z and A to Z",
                                      toml_string(model.layers), model.layers.substr(i, end - i)),
                          "use letters, one per block, and spaces");
    }
    if (!used.insert(letter).second || model.blocks.count(letter)) continue;
    if (!check.sound("model.block." + letter)) continue;
    check.report({"model.layers"}, fmt::format("block \"{}\" has no table", letter),
                 fmt::format("add [model.block.{}], or leave the letter out", letter));
  }
  if (used.empty()) {
    check.report({"model.layers"}, "has no blocks", "use letters, one per block, as in \"mw\"");
  }
  const int layers_precedence = check.place_of("model.layers").precedence;
  for (auto block = model.blocks.begin(); block != model.blocks.end();) {
    const std::string key = "model.block." + block->first;
    if (used.count(block->first)) {
      ++block;
    } else if (check.place_of(key).precedence < layers_precedence) {
      block = model.blocks.erase(block);
    } else {
      check.report({key, "model.layers"},
                   fmt::format("not used by model.layers, {}", toml_string(model.layers)),
                   "remove the table, or use the letter");
      ++block;
    }
  }
}

int64_t context_of(const Recipe& recipe) {
  return recipe.model.max_context > 0 ? recipe.model.max_context : recipe.train.context;
}

void check_scaling_reach(const Recipe& recipe, const BlockOptions& block, const std::string& path,
                         Checker& check) {
  const std::string context_key =
      recipe.model.max_context > 0 ? "model.max_context" : "train.context";
  if (!check.sound(path + ".rope_allow_mismatch", path + ".rope_factor", path + ".window",
                   path + ".pattern", path + ".rope_original_context", context_key,
                   "model.max_context")) {
    return;
  }
  if (const auto problem = scaling_problem(block, path, context_of(recipe), context_key)) {
    check.report(problem->keys, problem->what, problem->advice);
  }
}

void check_divisors(const BlockOptions& block, const std::string& path, Checker& check) {
  const size_t pairs = static_cast<size_t>(rope_options(block).rotary_width / 2);
  for (const auto& [name, divisors] : {std::pair{".rope_short_factors", &block.rope_short_factors},
                                       std::pair{".rope_long_factors", &block.rope_long_factors}}) {
    if (!check.sound(path + name) || divisors->size() == pairs) continue;
    check.report({path + name, path + ".head_width", path + ".rotary_share"},
                 fmt::format("has {} numbers, but {} pairs are turned", divisors->size(), pairs),
                 fmt::format("give {} numbers", pairs));
  }
}

void check_rope_scaling(const Recipe& recipe, const BlockOptions& block, const std::string& path,
                        Checker& check) {
  const std::string kind_key = path + ".rope_scaling";
  if (!check.sound(kind_key, path + ".head_width", path + ".rotary_share")) return;
  const auto order = [&](const std::string& low_name, double low, const std::string& high_name,
                         double high) {
    if (!check.sound(path + low_name, path + high_name) || high > low) return;
    check.report({path + high_name, path + low_name},
                 fmt::format("{} is not above {}, {}", toml_number(high), low_name.substr(1),
                             toml_number(low)),
                 fmt::format("raise it, or lower {}", low_name.substr(1)));
  };
  const int64_t rotary_width = rope_options(block).rotary_width;
  switch (block.rope_scaling) {
    case RopeScalingKind::none: return;
    case RopeScalingKind::dynamic:
      if (check.is_for_training()) {
        return check.report(
            {kind_key}, "\"dynamic\" changes with the length of the text, which is for inference",
            "train with \"yarn\", or with the base of a fixed factor, \"ntk\"; `sidewinder eval` "
            "and "
            "`generate` take it with --set");
      }
      [[fallthrough]];
    case RopeScalingKind::ntk:
      if (rotary_width < 4) {
        check.report(
            {kind_key, path + ".head_width", path + ".rotary_share"},
            fmt::format("a changed base needs two pairs, but {} numbers are turned", rotary_width),
            "turn at least 4 numbers of each head, or use \"linear\"");
      }
      break;
    case RopeScalingKind::ntk_by_parts:
    case RopeScalingKind::yarn:
      order(".rope_beta_slow", block.rope_beta_slow, ".rope_beta_fast", block.rope_beta_fast);
      break;
    case RopeScalingKind::longrope: check_divisors(block, path, check); break;
    case RopeScalingKind::llama3:
      order(".rope_low_frequency_factor", block.rope_low_frequency_factor,
            ".rope_high_frequency_factor", block.rope_high_frequency_factor);
      break;
    case RopeScalingKind::linear: break;
  }
  check_scaling_reach(recipe, block, path, check);
}

void check_rope_keys(const Recipe& recipe, const BlockOptions& block, const std::string& path,
                     Checker& check) {
  const std::string width_key = path + ".head_width";
  if (block.head_width % 2 != 0) {
    check.report({width_key, path + ".position"},
                 fmt::format("{} is odd, and rope turns pairs", block.head_width),
                 "use an even head_width, or set position = \"none\"");
    return;
  }
  const double turned = block.rotary_share * static_cast<double>(block.head_width);
  const double nearest_even = 2.0 * std::round(turned / 2.0);
  const bool is_even = nearest_even >= 2.0 && std::abs(turned - nearest_even) < 1e-9;
  if (check.sound(path + ".rotary_share") && !is_even) {
    check.report({path + ".rotary_share", width_key},
                 fmt::format("{} of head_width {} is {}, not an even number",
                             toml_number(block.rotary_share), block.head_width, turned),
                 "choose a share that turns 2, 4, 6, … numbers of each head");
    return;
  }
  const std::string positions_key = path + ".rope_positions";
  if (check.is_for_training() && check.sound(positions_key) &&
      block.rope_positions == RopePositions::cache) {
    check.report({positions_key},
                 "\"cache\" places queries as if the text began with what a cache has kept, which "
                 "is for inference",
                 "train with \"text\"; `sidewinder eval` and `generate` take it with --set");
  }
  check_rope_scaling(recipe, block, path, check);
}

void check_pattern(const BlockOptions& block, const std::string& path, Checker& check) {
  const std::string block_key = path + ".pattern_block";
  if (!check.sound(path + ".pattern", block_key)) return;
  if (block.pattern == PatternKind::bigbird && check.sound(path + ".window") &&
      block.window % block.pattern_block != 0) {
    const int64_t multiple = (block.window / block.pattern_block + 1) * block.pattern_block;
    check.report(
        {path + ".window", block_key},
        fmt::format("{} is not a multiple of pattern_block, {}", block.window, block.pattern_block),
        fmt::format("use whole blocks, as {}", multiple));
  }
  if (block.pattern == PatternKind::fixed && check.sound(path + ".summary") &&
      block.summary > block.pattern_block) {
    check.report(
        {path + ".summary", block_key},
        fmt::format("{} is more than pattern_block, {}", block.summary, block.pattern_block),
        fmt::format("use at most {}", block.pattern_block));
  }
}

void check_attention(const Recipe& recipe, const BlockOptions& block, const std::string& path,
                     Checker& check) {
  const ModelOptions& model = recipe.model;
  const std::string heads_key = path + ".heads";
  const std::string groups_key = path + ".key_value_heads";
  const std::string width_key = path + ".head_width";
  if (!check.sound(heads_key, width_key, "model.width")) return;
  if (block.heads == 0 && model.width % block.head_width != 0) {
    check.report({width_key, "model.width"},
                 fmt::format("{} does not divide model.width, {}", block.head_width, model.width),
                 fmt::format("use a divisor of {}, or set {}", model.width, heads_key));
    return;
  }
  const int64_t heads = block.heads > 0 ? block.heads : model.width / block.head_width;
  if (check.sound(groups_key) && block.key_value_heads > 0 && heads % block.key_value_heads != 0) {
    check.report(
        {groups_key, heads_key, width_key, "model.width"},
        fmt::format("{} does not divide the number of heads, {}", block.key_value_heads, heads),
        fmt::format("use a divisor of {}", heads));
  }
  check_pattern(block, path, check);
  if (block.position == PositionKind::rope && check.sound(path + ".position")) {
    check_rope_keys(recipe, block, path, check);
  }
}

void check_mamba(const BlockOptions& block, const std::string& path, Checker& check) {
  if (check.sound(path + ".dt_min", path + ".dt_max") && block.dt_min > block.dt_max) {
    check.report(
        {path + ".dt_min", path + ".dt_max"},
        fmt::format("{} is above dt_max, {}", toml_number(block.dt_min), toml_number(block.dt_max)),
        "initial step sizes lie between dt_min and dt_max");
  }
  if (check.sound(path + ".dt_floor", path + ".dt_max") && block.dt_floor > block.dt_max) {
    check.report({path + ".dt_floor", path + ".dt_max"},
                 fmt::format("{} is above dt_max, {}", toml_number(block.dt_floor),
                             toml_number(block.dt_max)),
                 "use a dt_floor of at most dt_max");
  }
}

void check_model(const Recipe& recipe, Checker& check) {
  const ModelOptions& model = recipe.model;
  for (const auto& [letter, block] : model.blocks) {
    const std::string path = "model.block." + letter;
    if (!check.sound(path + ".mixer")) continue;
    if (block.mixer == MixerKind::attention) check_attention(recipe, block, path, check);
    if (block.mixer == MixerKind::mamba1) check_mamba(block, path, check);
  }
  if (check.sound("model.max_context", "train.context") && model.max_context > 0 &&
      model.max_context < recipe.train.context) {
    check.report(
        {"model.max_context", "train.context"},
        fmt::format("{} is less than train.context, {}", model.max_context, recipe.train.context),
        fmt::format("use at least {}, or 0", recipe.train.context));
  }
}

void check_data(const Recipe& recipe, Checker& check) {
  const std::vector<CorpusOptions>& corpora = recipe.data.train;
  for (size_t i = 0; i < corpora.size(); ++i) {
    const std::string path = fmt::format("data.train.{}", i);
    for (size_t j = 0; j < i; ++j) {
      if (check.sound(path + ".name") && corpora[i].name == corpora[j].name) {
        check.report({path + ".name"},
                     fmt::format("{} is the name of another corpus", toml_string(corpora[i].name)),
                     "give every corpus a name of its own");
      }
      if (check.sound(path + ".folder") && corpora[i].folder == corpora[j].folder) {
        check.report(
            {path + ".folder"},
            fmt::format("{} is the folder of another corpus", toml_string(corpora[i].folder)),
            "list a folder once, and raise its weight");
      }
    }
  }
}

// Without data.validation nothing may ask for it. What an extended file, or the file before a --set
// that takes data.validation away, asks for does not count.
void check_validation(Recipe& recipe, Checker& check) {
  const std::string data_key = "data.validation";
  if (!recipe.data.validation.empty() || !check.sound(data_key)) return;
  const Node& decision = *check.find(data_key);
  const bool is_written = !decision.is_table();
  const auto refuse = [&](const std::string& key, auto& value, const std::string& without) {
    using Value = std::decay_t<decltype(value)>;
    if (value == Value{} || !check.sound(key)) return;
    if (is_written && check.place_of(key).precedence < decision.place.precedence) {
      value = {};
      return;
    }
    check.report({key, data_key}, "there is nothing to validate on",
                 "set data.validation to a folder of token shards, or " + without);
  };
  refuse("train.validate_every", recipe.train.validate_every, "train.validate_every to 0");
  refuse("train.validate_tokens", recipe.train.validate_tokens, "train.validate_tokens to 0");
  refuse("context.validate_lengths", recipe.context.validate_lengths, "remove the key");
}

// The multiples of `unit` on both sides of `value`.
std::string neighbours(int64_t value, int64_t unit) {
  const int64_t below = value / unit * unit;
  if (below == 0) return std::to_string(unit);
  if (below > std::numeric_limits<int64_t>::max() - unit) return std::to_string(below);
  return fmt::format("{} or {}", below, below + unit);
}

void check_step_size(const TrainOptions& train, Checker& check) {
  const std::string step_key = "train.tokens_per_step";
  const std::string micro_key = "train.tokens_per_micro_batch";
  if (!check.sound("train.context")) return;
  const bool step_fits = check.sound(step_key) && train.tokens_per_step % train.context == 0;
  if (check.sound(step_key) && !step_fits) {
    check.report({step_key, "train.context"},
                 fmt::format("{} is not a multiple of train.context, {}", train.tokens_per_step,
                             train.context),
                 "use " + neighbours(train.tokens_per_step, train.context));
  }
  if (!check.sound(micro_key) || train.tokens_per_micro_batch == 0) return;
  if (train.tokens_per_micro_batch % train.context != 0) {
    check.report(
        {micro_key, "train.context"},
        fmt::format("{} is not a multiple of train.context, {}", train.tokens_per_micro_batch,
                    train.context),
        "use " + neighbours(train.tokens_per_micro_batch, train.context) + ", or 0 for one row");
  } else if (step_fits && train.tokens_per_step % train.tokens_per_micro_batch != 0) {
    check.report({micro_key, step_key, "train.context"},
                 fmt::format("{} does not divide train.tokens_per_step, {}",
                             train.tokens_per_micro_batch, train.tokens_per_step),
                 fmt::format("use a multiple of {} that divides {}, or 0 for one row",
                             train.context, train.tokens_per_step));
  }
}

void check_chunks(const TrainOptions& train, Checker& check) {
  const std::string key = "train.sequence_chunk";
  if (train.sequence_chunk == 0 || !check.sound(key)) return;
  if (check.sound("train.recompute") && train.recompute != RecomputeKind::none) {
    check.report({key, "train.recompute"},
                 "chunks are computed again in the backward pass as a whole, not block by block",
                 "remove train.recompute = \"block\", or set sequence_chunk = 0");
  }
  if (check.sound("train.context") && train.sequence_chunk >= train.context) {
    check.report(
        {key, "train.context"},
        fmt::format("{} has no effect in rows of {} tokens", train.sequence_chunk, train.context),
        "use less than a row, or 0");
  }
}

// Tables of another kind of schedule that an extended file, or the file before a --set of
// context.curve, has do not count.
void drop_inherited_context(ContextOptions& context, Checker& check) {
  const int curve = check.place_of("context.curve").precedence;
  const bool by_stages = context.curve == ContextCurve::stages;
  const bool is_constant = context.curve == ContextCurve::constant;
  if (!by_stages && check.place_of("context.stage").precedence < curve) context.stages.clear();
  if ((by_stages || is_constant) && check.place_of("context.block").precedence < curve) {
    context.blocks.clear();
  }
}

void check_context(Recipe& recipe, Checker& check) {
  ContextOptions& context = recipe.context;
  const std::string curve_key = "context.curve";
  if (!check.sound(curve_key, "context.form", "context.unit", "context.stage", "context.block",
                   "train.context", "train.tokens_per_step", "train.steps")) {
    return;
  }
  drop_inherited_context(context, check);
  for (const ContextProblem& problem : context_problems(context, recipe.train, recipe.model)) {
    const auto is_sound = [&](const std::string& key) { return check.sound(key); };
    if (std::all_of(problem.keys.begin(), problem.keys.end(), is_sound)) {
      check.report(problem.keys, problem.what, problem.advice);
    }
  }
  for (const ContextProblem& problem : lane_problems(recipe.data, recipe.model)) {
    const auto is_sound = [&](const std::string& key) { return check.sound(key); };
    if (std::all_of(problem.keys.begin(), problem.keys.end(), is_sound)) {
      check.report(problem.keys, problem.what, problem.advice);
    }
  }
  const bool grows_rows =
      context.curve != ContextCurve::constant && context.form == ContextForm::rows;
  if (recipe.data.long_documents == LongDocuments::defer && !grows_rows) {
    check.report({"data.long_documents", curve_key, "context.form"},
                 "\"defer\" has no effect where rows do not grow longer",
                 "use \"continue_reset\", or grow the context with context.form = \"rows\"");
  }
}

void check_learning_rate(const Recipe& recipe, Checker& check) {
  const LearningRateOptions& rate = recipe.learning_rate;
  const int64_t steps = recipe.train.steps;
  const std::string warmup_key = "learning_rate.warmup_steps";
  const std::string decay_key = "learning_rate.decay_steps";
  if (!check.sound(warmup_key, "train.steps", "learning_rate.shape")) return;
  if (rate.warmup_steps > steps) {
    check.report({warmup_key, "train.steps"},
                 fmt::format("{} is more than train.steps, {}", rate.warmup_steps, steps),
                 "the warm-up must end within the run: lower it, or raise train.steps");
    return;
  }
  const bool is_wsd = rate.shape == LearningRateShape::wsd;
  if (is_wsd && check.sound(decay_key) && rate.decay_steps > steps - rate.warmup_steps) {
    check.report({decay_key, warmup_key, "train.steps"},
                 fmt::format("{} is more than the {} steps after the warm-up", rate.decay_steps,
                             steps - rate.warmup_steps),
                 "lower decay_steps or warmup_steps, or raise train.steps");
  }
}

void check_checkpoints(const CheckpointOptions& options, Checker& check) {
  const std::string every_key = "checkpoint.every_steps";
  const std::string keep_key = "checkpoint.keep_every";
  if (!check.sound(every_key, keep_key) || options.keep_every == 0) return;
  if (options.every_steps == 0) {
    check.report({keep_key, every_key}, "has no effect with checkpoint.every_steps = 0",
                 "remove it, or set checkpoint.every_steps");
  } else if (options.keep_every % options.every_steps != 0) {
    check.report({keep_key, every_key},
                 fmt::format("{} is not a multiple of checkpoint.every_steps, {}",
                             options.keep_every, options.every_steps),
                 "use " + neighbours(options.keep_every, options.every_steps));
  }
}

// Rotary angles that the model has never seen make its scores noise (Chen et al. 2023,
// arXiv:2306.15595).
void check_unscaled(const Recipe& recipe, Checker& check) {
  const int64_t from = recipe.extend.from_context;
  if (from == 0 || recipe.extend.allow_unscaled || !check.sound("train.context")) return;
  for (const auto& [letter, block] : recipe.model.blocks) {
    const std::string path = "model.block." + letter;
    if (!check.sound(path + ".mixer", path + ".position", path + ".rope_scaling", path + ".window",
                     "context.stage")) {
      continue;
    }
    const bool turns = block.mixer == MixerKind::attention && block.position == PositionKind::rope;
    const int64_t reach = visible_reach(block, recipe.train.context);
    bool changes_base = false;
    for (const StageOptions& stage : recipe.context.stages) {
      const auto set = stage.blocks.find(letter);
      changes_base = changes_base || (set != stage.blocks.end() && set->second.rope_base > 0);
    }
    if (!turns || reach <= from || changes_base) continue;
    if (block.rope_scaling != RopeScalingKind::none) continue;
    check.report(
        {path + ".rope_scaling", "extend.from_context", "train.context"},
        fmt::format("\"none\", but queries see {} tokens, more than extend.from_context, {}", reach,
                    from),
        fmt::format("set rope_scaling, as in \"yarn\" with rope_factor = {} and "
                    "rope_original_context = {}, or rope_base in the stages; to do without, "
                    "extend.allow_unscaled = true",
                    toml_number(static_cast<double>(reach) / static_cast<double>(from)), from));
  }
}

void check_extension(const Recipe& recipe, Checker& check) {
  const std::string from_key = "extend.from_context";
  const int64_t from = recipe.extend.from_context;
  if (from == 0 || !check.sound(from_key)) return;
  if (recipe.init.from.empty() && check.sound("init.from")) {
    check.report({from_key, "init.from"}, "there is no model to extend",
                 "set init.from to the run folder or checkpoint of the trained model");
  }
  if (recipe.data.validation.empty() && check.sound("data.validation")) {
    check.report({from_key, "data.validation"}, "there is nothing to measure the extension on",
                 "set data.validation to token shards with documents longer than " +
                     std::to_string(from) + " tokens");
  }
  if (check.sound("train.context") && recipe.train.context <= from) {
    check.report({from_key, "train.context"},
                 fmt::format("{} is not below train.context, {}", from, recipe.train.context),
                 "from_context is the context before the extension, train.context the one after");
  }
}

}  // namespace

void check_recipe(Recipe& recipe, const Node& tree, RecipeUse use, Problems& problems) {
  Checker check(tree, use, problems);
  check_layers(recipe.model, check);
  check_model(recipe, check);
  check_data(recipe, check);
  check_validation(recipe, check);
  check_step_size(recipe.train, check);
  check_chunks(recipe.train, check);
  check_context(recipe, check);
  check_learning_rate(recipe, check);
  check_checkpoints(recipe.checkpoint, check);
  check_extension(recipe, check);
  check_unscaled(recipe, check);
}

}  // namespace sidewinder
