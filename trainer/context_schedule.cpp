#include "trainer/context_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr double kPi = 3.14159265358979323846;

bool is_curve(ContextCurve curve) {
  return curve != ContextCurve::constant && curve != ContextCurve::stages;
}

// The largest divisor of `whole` that is a multiple of `unit` and at most `length`; 0: none.
int64_t divisor_below(int64_t whole, int64_t unit, int64_t length) {
  for (int64_t candidate = length / unit * unit; candidate > 0; candidate -= unit) {
    if (whole % candidate == 0) return candidate;
  }
  return 0;
}

int64_t length_at(const ContextOptions& options, const TrainOptions& train, int64_t t) {
  if (options.curve == ContextCurve::constant) return train.context;
  if (options.curve == ContextCurve::stages) {
    int64_t length = 0;
    for (const StageOptions& stage : options.stages) {
      if (stage.from <= t) length = stage.length;
    }
    return length;
  }
  if (t >= options.ramp) return train.context;
  const int64_t length = curve_length(options.curve, options.first, train.context, t, options.ramp);
  const int64_t rounded = options.rounding == ContextRounding::divisor
                              ? divisor_below(train.tokens_per_step, options.multiple, length)
                              : length / options.multiple * options.multiple;
  return std::max(options.first, rounded);
}

// Of the whole run, in units of the schedule.
int64_t duration(const ContextOptions& options, const TrainOptions& train) {
  return options.unit == ContextUnit::steps ? train.steps : train.steps * train.tokens_per_step;
}

// The first step at or after time t.
int64_t step_at(ContextUnit unit, int64_t tokens_per_step, int64_t t) {
  return unit == ContextUnit::steps ? t : (t + tokens_per_step - 1) / tokens_per_step;
}

const char* plural_unit(ContextUnit unit) {
  return unit == ContextUnit::steps ? "steps" : "row slots";
}

std::string stage_key(size_t i, const std::string& key) {
  return fmt::format("context.stage.{}.{}", i, key);
}

// Windows of a pattern that draws whole blocks are made of them.
int64_t window_unit(const BlockOptions& block) {
  return block.pattern == PatternKind::bigbird ? std::max<int64_t>(1, block.pattern_block) : 1;
}

class ProblemFinder {
 public:
  ProblemFinder(const ContextOptions& options, const TrainOptions& train, const ModelOptions& model)
      : options_(options), train_(train), model_(model) {}

  std::vector<ContextProblem> find() {
    const bool is_usable = train_.context >= 1 && train_.tokens_per_step >= 1 && train_.steps >= 1;
    check_tables();
    if (!is_usable) return problems_;
    if (options_.curve == ContextCurve::stages) check_stages();
    if (is_curve(options_.curve)) check_curve();
    return problems_;
  }

 private:
  void add(const std::vector<std::string>& keys, const std::string& what,
           const std::string& advice) {
    problems_.push_back({keys, what, advice});
  }

  // Tables that the kind of schedule does not read.
  void check_tables() {
    const bool by_stages = options_.curve == ContextCurve::stages;
    if (by_stages && options_.stages.empty()) {
      add({"context.curve"}, "there is no stage",
          "add tables [[context.stage]], each with `from` and `length`");
    }
    if (!by_stages && !options_.stages.empty()) {
      add({"context.stage", "context.curve"}, "has no effect unless context.curve = \"stages\"",
          "remove the stages, or set context.curve = \"stages\"");
    }
    if (!is_curve(options_.curve) && !options_.blocks.empty()) {
      add({"context.block", "context.curve"},
          by_stages ? "has no effect with context.curve = \"stages\""
                    : "has no effect with context.curve = \"constant\"",
          by_stages ? "say what changes in each stage, in [context.stage.block.<letter>]"
                    : "remove it, or choose a curve");
    }
  }

  void check_length(const std::string& key, int64_t length) {
    if (model_.max_context > 0 && length > model_.max_context) {
      add({key, "model.max_context"},
          fmt::format("{} is longer than model.max_context, {}", length, model_.max_context),
          "raise model.max_context, or end the schedule there");
    }
  }

  void check_divides(const std::string& key, int64_t length) {
    const int64_t tokens = train_.tokens_per_step;
    if (options_.form != ContextForm::rows || tokens % length == 0) return;
    if (length == train_.context) return;  // a problem of train.tokens_per_step
    std::string use = std::to_string(divisor_below(tokens, 1, length));
    int64_t above = length;
    while (above < tokens && tokens % above != 0) ++above;
    if (above <= tokens) use += fmt::format(" or {}", above);
    add({key, "train.tokens_per_step"},
        fmt::format("rows of {} do not divide train.tokens_per_step, {}", length, tokens),
        fmt::format("use {}, change train.tokens_per_step, or set context.form = \"mask\"", use));
  }

  // The blocks of `letter`, if there are any and they have attention.
  const BlockOptions* attention_of(const std::string& key, const std::string& letter) {
    const auto block = model_.blocks.find(letter);
    if (block == model_.blocks.end()) {
      std::string known;
      for (const auto& [name, unused] : model_.blocks) known += (known.empty() ? "" : ", ") + name;
      add({key, "model.layers"}, fmt::format("there is no block \"{}\"", letter),
          "use one of the letters of model.layers: " + known);
      return nullptr;
    }
    if (block->second.mixer != MixerKind::attention) {
      add({key, "model.block." + letter},
          fmt::format("the blocks \"{}\" have no attention", letter), "remove the table");
      return nullptr;
    }
    return &block->second;
  }

  bool check_has_window(const std::string& key, const std::string& letter,
                        const BlockOptions& block) {
    if (block.window > 0) return true;
    add({key, "model.block." + letter + ".pattern"},
        fmt::format("the blocks \"{}\" have no window", letter),
        fmt::format("remove it, or give model.block.{} a window", letter));
    return false;
  }

  void check_window_unit(const std::string& key, const std::string& letter,
                         const BlockOptions& block, int64_t window) {
    const int64_t unit = window_unit(block);
    if (window % unit == 0) return;
    add({key, "model.block." + letter + ".pattern_block"},
        fmt::format("{} is not a multiple of model.block.{}.pattern_block, {}", window, letter,
                    unit),
        fmt::format("use whole blocks, as {}", (window / unit + 1) * unit));
  }

  void check_stages() {
    const std::vector<StageOptions>& stages = options_.stages;
    for (size_t i = 0; i < stages.size(); ++i) check_stage(i);
    if (stages.empty()) return;
    const size_t last = stages.size() - 1;
    if (stages[last].length != train_.context) {
      add({stage_key(last, "length"), "train.context"},
          fmt::format("the last stage has {}, but train.context is {}", stages[last].length,
                      train_.context),
          "a schedule ends at train.context: make them equal");
    }
    std::set<std::string> letters;
    for (size_t i = 0; i < stages.size(); ++i) {
      for (const auto& [letter, block] : stages[i].blocks) {
        if (check_stage_block(i, letter, block)) letters.insert(letter);
      }
    }
    for (const std::string& letter : letters) check_blocks_grow(letter);
  }

  // Whether what the stage sets of these blocks can be set at all.
  bool check_stage_block(size_t i, const std::string& letter, const StageBlockOptions& set) {
    const std::string path = stage_key(i, "block." + letter);
    const BlockOptions* const block = attention_of(path, letter);
    if (block == nullptr) return false;
    if (set.window > 0 && !check_has_window(path + ".window", letter, *block)) return false;
    check_window_unit(path + ".window", letter, *block, set.window);
    const std::string rope_path = "model.block." + letter;
    if ((set.rope_base > 0 || set.rope_factor > 0) && block->position != PositionKind::rope) {
      add({path + (set.rope_base > 0 ? ".rope_base" : ".rope_factor"), rope_path + ".position"},
          fmt::format("the blocks \"{}\" have no rotary positions", letter),
          "remove it, or set their position = \"rope\"");
      return false;
    }
    if (set.rope_factor > 0 && block->rope_scaling == RopeScalingKind::none) {
      add({path + ".rope_factor", rope_path + ".rope_scaling"},
          fmt::format("the blocks \"{}\" have no rope_scaling", letter),
          fmt::format("set model.block.{}.rope_scaling, or change rope_base", letter));
      return false;
    }
    if (set.rope_factor > 0) check_factor(i, letter, set, *block);
    return true;
  }

  // As for the model as a whole: the factor leads from the original context to what is seen.
  void check_factor(size_t i, const std::string& letter, const StageBlockOptions& set,
                    const BlockOptions& block) {
    if (block.rope_allow_mismatch || block.rope_scaling == RopeScalingKind::llama3) return;
    const std::string path = "model.block." + letter;
    const int64_t original = block.rope_original_context;
    BlockOptions staged = block;
    if (set.window > 0) staged.window = set.window;
    const int64_t reach = visible_reach(staged, options_.stages[i].length);
    if (original < 1) return;
    const double wanted = std::max(1.0, static_cast<double>(reach) / static_cast<double>(original));
    const double missing = (wanted - set.rope_factor) * static_cast<double>(original);
    const bool is_ntk = block.rope_scaling == RopeScalingKind::ntk;
    if (is_ntk ? missing < 0.5 : std::abs(missing) < 0.5) return;
    add({stage_key(i, "block." + letter + ".rope_factor"), path + ".rope_original_context",
         stage_key(i, "length"), path + ".rope_allow_mismatch"},
        fmt::format("{} does not lead from rope_original_context, {}, to the {} tokens seen in the "
                    "stage",
                    set.rope_factor, original, reach),
        fmt::format("use {}{}, or set {}.rope_allow_mismatch = true", is_ntk ? "at least " : "",
                    wanted, path));
  }

  void check_stage(size_t i) {
    const StageOptions& stage = options_.stages[i];
    const std::string from = stage_key(i, "from");
    const std::string length = stage_key(i, "length");
    if (i == 0 && stage.from != 0) {
      add({from}, fmt::format("the first stage begins at {}", stage.from), "it must begin at 0");
    }
    if (i > 0) {
      const StageOptions& before = options_.stages[i - 1];
      const int64_t first_step = step_at(options_.unit, train_.tokens_per_step, stage.from);
      if (first_step <= step_at(options_.unit, train_.tokens_per_step, before.from)) {
        add({from, stage_key(i - 1, "from"), "context.unit"},
            fmt::format("begins in the same step as the stage before or earlier: {} after {}",
                        stage.from, before.from),
            fmt::format("stages are listed in order, each at least one step (of {} row slots) long",
                        train_.tokens_per_step));
      }
      if (stage.length < before.length) {
        add({length, stage_key(i - 1, "length")},
            fmt::format("{} is shorter than the stage before, {}", stage.length, before.length),
            "the context may only grow");
      }
      check_rewarm(i, first_step);
    }
    const int64_t end = duration(options_, train_);
    if (stage.from >= end && stage.from > 0) {
      add({from, "context.unit", "train.steps"},
          fmt::format("the stage begins at {}, but the run ends after {} {}", stage.from, end,
                      plural_unit(options_.unit)),
          "begin it earlier, leave it out, or raise train.steps");
    }
    check_length(length, stage.length);
    if (stage.length >= 1) check_divides(length, stage.length);
  }

  void check_rewarm(size_t i, int64_t first_step) {
    if (options_.learning_rate != EdgeLearningRate::rewarm) return;
    const bool is_last = i + 1 == options_.stages.size();
    const int64_t end =
        is_last ? train_.steps
                : step_at(options_.unit, train_.tokens_per_step, options_.stages[i + 1].from);
    if (first_step < end && options_.rewarm_steps > end - first_step) {
      add({"context.rewarm_steps", stage_key(i, "from"), "train.steps"},
          fmt::format("{} is more than the {} steps of stage {}", options_.rewarm_steps,
                      end - first_step, i),
          "each stage must outlast its warm-up: lower it, or make the stage longer");
    }
  }

  // Windows, bases and factors only grow, and end at the model's.
  void check_blocks_grow(const std::string& letter) {
    const BlockOptions& block = model_.blocks.at(letter);
    check_grows(letter, "window", static_cast<double>(block.window),
                [](const StageBlockOptions& set) { return static_cast<double>(set.window); });
    check_grows(letter, "rope_base", block.rope_base,
                [](const StageBlockOptions& set) { return set.rope_base; });
    check_grows(letter, "rope_factor", block.rope_factor,
                [](const StageBlockOptions& set) { return set.rope_factor; });
  }

  template <typename Get>
  void check_grows(const std::string& letter, const std::string& name, double of_model,
                   const Get& get) {
    double before = 0;
    for (size_t i = 0; i < options_.stages.size(); ++i) {
      const auto set = options_.stages[i].blocks.find(letter);
      const bool is_set = set != options_.stages[i].blocks.end() && get(set->second) > 0;
      const double value = is_set ? get(set->second) : of_model;
      const std::string key = stage_key(i, fmt::format("block.{}.{}", letter, name));
      if (value < before) {
        add({key, stage_key(i - 1, "block." + letter)},
            fmt::format("{} is smaller than in the stage before, {}{}", value, before,
                        before == of_model ? " (the model's, where none is set)" : ""),
            "it may only grow");
      }
      const std::string model_key = fmt::format("model.block.{}.{}", letter, name);
      if (i + 1 == options_.stages.size() && value != of_model) {
        add({key, model_key},
            fmt::format("the last stage has {}, but {} is {}", value, model_key, of_model),
            "a schedule ends at what the model has: make them equal");
      }
      before = value;
    }
  }

  void check_curve() {
    if (options_.first < 1 || options_.ramp < 1 || options_.multiple < 1) return;
    if (options_.first > train_.context) {
      add({"context.first", "train.context"},
          fmt::format("{} is more than train.context, {}", options_.first, train_.context),
          "the context may only grow");
      return;
    }
    check_length("train.context", train_.context);
    const int64_t end = duration(options_, train_);
    if (options_.ramp > end) {
      add({"context.ramp", "context.unit", "train.steps"},
          fmt::format("{} is more than the {} {} of the run", options_.ramp, end,
                      plural_unit(options_.unit)),
          "the curve must reach train.context within the run: lower it, or raise train.steps");
      return;
    }
    check_curve_divides();
    for (const auto& [letter, block] : options_.blocks) {
      const std::string key = "context.block." + letter;
      const BlockOptions* const of_model = attention_of(key, letter);
      if (of_model == nullptr || !check_has_window(key, letter, *of_model)) continue;
      const int64_t window = of_model->window;
      if (block.first_window > window) {
        add({key + ".first_window", "model.block." + letter + ".window"},
            fmt::format("{} is more than model.block.{}.window, {}", block.first_window, letter,
                        window),
            "a window may only grow");
      }
      check_window_unit(key + ".first_window", letter, *of_model, block.first_window);
    }
  }

  void check_curve_divides() {
    if (options_.form != ContextForm::rows) return;
    int64_t checked = 0;
    const int64_t last_step = step_at(options_.unit, train_.tokens_per_step, options_.ramp);
    for (int64_t step = 0; step <= last_step; ++step) {
      const int64_t t = options_.unit == ContextUnit::steps ? step : step * train_.tokens_per_step;
      const int64_t length = length_at(options_, train_, t);
      if (length == checked) continue;
      checked = length;
      if (train_.tokens_per_step % length == 0) continue;
      if (length == options_.first) return check_divides("context.first", length);
      if (length == train_.context) return;  // its own rule
      return add({"context.curve", "context.first", "context.ramp", "context.multiple",
                  "context.rounding", "train.context", "train.tokens_per_step"},
                 fmt::format("comes to rows of {} at step {}, which do not divide "
                             "train.tokens_per_step, {}",
                             length, step, train_.tokens_per_step),
                 "set context.rounding = \"divisor\", or context.form = \"mask\"");
    }
  }

  const ContextOptions& options_;
  const TrainOptions& train_;
  const ModelOptions& model_;
  std::vector<ContextProblem> problems_;
};

}  // namespace

int64_t curve_length(ContextCurve curve, int64_t first, int64_t last, int64_t t, int64_t ramp) {
  t = std::clamp<int64_t>(t, 0, ramp);
  if (t == ramp) return last;
  const double x = static_cast<double>(t) / static_cast<double>(ramp);
  const auto from = static_cast<double>(first);
  const auto way = static_cast<double>(last - first);
  const double ratio = static_cast<double>(last) / from;
  double length = 0;
  switch (curve) {
    case ContextCurve::linear: {
      // In integers: one more token every ramp / (last − first) units, exactly.
      const auto grown = static_cast<unsigned __int128>(last - first) *
                         static_cast<unsigned __int128>(t) / static_cast<unsigned __int128>(ramp);
      return first + static_cast<int64_t>(grown);
    }
    case ContextCurve::exponential: length = from * std::pow(ratio, x); break;
    case ContextCurve::sine: length = from + std::floor(way * std::sin(kPi * x / 2)); break;
    case ContextCurve::cosine: length = from + std::floor(way * (1 - std::cos(kPi * x)) / 2); break;
    case ContextCurve::log: {
      const double share =
          std::log1p(static_cast<double>(t)) / std::log1p(static_cast<double>(ramp));
      length = from * std::pow(ratio, share);
      break;
    }
    case ContextCurve::constant:
    case ContextCurve::stages: SIDEWINDER_ASSERT(false); break;
  }
  return std::clamp(static_cast<int64_t>(std::floor(length)), first, last);
}

std::vector<ContextProblem> context_problems(const ContextOptions& options,
                                             const TrainOptions& train, const ModelOptions& model) {
  return ProblemFinder(options, train, model).find();
}

ContextSchedule::ContextSchedule(const ContextOptions& options, const TrainOptions& train,
                                 const ModelOptions& model)
    : options_(options), train_(train) {
  for (const ContextProblem& problem : context_problems(options, train, model)) {
    fail_user("{}: {}; {}", problem.keys.front(), problem.what, problem.advice);
  }
  const auto add = [&](const std::string& letter) { blocks_[letter] = model.blocks.at(letter); };
  for (const auto& [letter, block] : options.blocks) add(letter);
  for (const StageOptions& stage : options.stages) {
    for (const auto& [letter, block] : stage.blocks) add(letter);
  }
}

int64_t ContextSchedule::time(const Progress& progress) const {
  return options_.unit == ContextUnit::steps ? progress.step : progress.row_slots;
}

Progress ContextSchedule::progress_at(int64_t step) const {
  return {step, step * train_.tokens_per_step};
}

size_t ContextSchedule::stage_at(const Progress& progress) const {
  size_t stage = 0;
  while (stage + 1 < options_.stages.size() && options_.stages[stage + 1].from <= time(progress)) {
    ++stage;
  }
  return stage;
}

BlockPlan ContextSchedule::stage_block(size_t stage, const std::string& letter) const {
  const BlockOptions& model = blocks_.at(letter);
  BlockPlan plan;
  plan.window = model.window;
  // What any stage sets has a value in every stage.
  for (const StageOptions& any : options_.stages) {
    const auto set = any.blocks.find(letter);
    if (set == any.blocks.end()) continue;
    if (set->second.rope_base > 0) plan.rope_base = model.rope_base;
    if (set->second.rope_factor > 0) plan.rope_factor = model.rope_factor;
  }
  const auto set = options_.stages[stage].blocks.find(letter);
  if (set == options_.stages[stage].blocks.end()) return plan;
  if (set->second.window > 0) plan.window = set->second.window;
  if (set->second.rope_base > 0) plan.rope_base = set->second.rope_base;
  if (set->second.rope_factor > 0) plan.rope_factor = set->second.rope_factor;
  return plan;
}

ContextPlan ContextSchedule::at(const Progress& progress) const {
  const int64_t t = time(progress);
  ContextPlan plan;
  plan.length = length_at(options_, train_, t);
  const bool is_mask = options_.form == ContextForm::mask;
  const int64_t row_length = is_mask ? train_.context : plan.length;
  plan.rows = {train_.tokens_per_step / row_length, row_length};
  if (plan.length < row_length) {
    plan.fragment = plan.length;
    plan.cut_states = options_.reset_state;
  }
  if (options_.curve == ContextCurve::stages) {
    const size_t stage = stage_at(progress);
    plan.stage = static_cast<int64_t>(stage);
    for (const auto& [letter, block] : blocks_) plan.blocks[letter] = stage_block(stage, letter);
  }
  if (is_curve(options_.curve)) {
    int64_t growth = plan.length / options_.first;
    for (const auto& [letter, block] : blocks_) {
      const int64_t first = options_.blocks.at(letter).first_window;
      const int64_t last = block.window;
      const int64_t window = curve_length(options_.curve, first, last, t, options_.ramp);
      const int64_t unit = std::lcm(options_.multiple, window_unit(block));
      plan.blocks[letter].window =
          t >= options_.ramp ? last : std::max(first, window / unit * unit);
      growth = std::max(growth, plan.blocks[letter].window / first);
    }
    plan.stage = std::bit_width(static_cast<uint64_t>(growth)) - 1;
  }
  return plan;
}

int64_t ContextSchedule::next_change(int64_t step, int64_t end) const {
  const ContextPlan now = at(progress_at(step));
  // Everything only grows, so "the same plan" holds up to the change and never after.
  int64_t same = step;
  int64_t other = end;
  while (same + 1 < other) {
    const int64_t middle = same + (other - same) / 2;
    (at(progress_at(middle)) == now ? same : other) = middle;
  }
  return std::max(other, step);
}

double ContextSchedule::learning_rate_share(const Progress& progress) const {
  if (options_.curve != ContextCurve::stages ||
      options_.learning_rate != EdgeLearningRate::rewarm) {
    return 1.0;
  }
  const size_t stage = stage_at(progress);
  if (stage == 0) return 1.0;
  const int64_t begin = step_at(options_.unit, train_.tokens_per_step, options_.stages[stage].from);
  const int64_t k = progress.step - begin;
  if (k >= options_.rewarm_steps) return 1.0;
  return static_cast<double>(k + 1) / static_cast<double>(options_.rewarm_steps);
}

int64_t ContextSchedule::rows_at_once(int64_t row_length) const {
  const int64_t slots =
      train_.tokens_per_micro_batch == 0 ? train_.context : train_.tokens_per_micro_batch;
  return std::max<int64_t>(1, slots / row_length);
}

void apply(const ContextPlan& plan, HybridModel& model) {
  for (const auto& [letter, block] : plan.blocks) {
    // From the model's options, never from what it has at present: scaling does not compound.
    BlockContext context;
    context.window = block.window;
    context.rope = rope_options(model.options().blocks.at(letter));
    if (block.rope_base > 0) context.rope.base = block.rope_base;
    if (block.rope_factor > 0) context.rope.scaling.factor = block.rope_factor;
    model.set_block_context(letter.front(), context);
  }
}

std::string text_of(const ContextPlan& plan) {
  std::string text =
      fmt::format("context {}, {} rows of {}", plan.length, plan.rows.rows, plan.rows.row_length);
  for (const auto& [letter, block] : plan.blocks) {
    if (block.window > 0) text += fmt::format(", window of {} {}", letter, block.window);
    if (block.rope_base > 0) text += fmt::format(", rope base of {} {}", letter, block.rope_base);
    if (block.rope_factor > 0) {
      text += fmt::format(", rope factor of {} {}", letter, block.rope_factor);
    }
  }
  return text;
}

}  // namespace sidewinder
